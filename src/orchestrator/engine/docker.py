"""The container engine, through docker-py: containers and networks.

Nothing above this package sees docker-py's types or errors: every method raises `EngineError`
(`EngineUnavailableError` when no daemon answers). What was created is listed and removed by
`sessions`, which can do so without docker-py.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import signal
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from orchestrator.engine.api import (
    STDERR,
    Ending,
    ExecResult,
    IgnoreMissing,
    Label,
    container_state,
    engine_info,
    gateway_of,
    short_name,
)
from orchestrator.engine.client import ClientPool
from orchestrator.engine.create import HOST_GATEWAY, create_container
from orchestrator.engine.endpoint import LOOPBACK, PublishedAddress, own_address, published_address
from orchestrator.engine.files import Files
from orchestrator.engine.images import Images
from orchestrator.engine.streams import Cut, open_stream, read_log, read_steps, run_process
from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from orchestrator.engine.api import ContainerSpec, ContainerState, EngineInfo
    from orchestrator.engine.endpoint import Endpoint

_SIGNAL_OF: Final = {128 + it: it.name for it in signal.Signals}  # by exit code
_LATE: Final = 1.0  # seconds by which an event may come after what it tells of
_ELSEWHERE: Final = "198.51.100.1"  # of a network that is nobody's (RFC 5737)
_CUT_SHORT: Final = re.compile(rb"Error: (read|write) unixpacket \S*/attach: .*\n")
_PEAKS: Final = (
    "/sys/fs/cgroup/memory.peak",  # control groups version 2, Linux 5.19
    "/sys/fs/cgroup/memory/memory.max_usage_in_bytes",  # version 1
)
_OOM_KILLS: Final = (
    "/sys/fs/cgroup/memory.events",  # control groups version 2
    "/sys/fs/cgroup/memory/memory.oom_control",  # version 1
)


class Engine:
    """A Docker daemon. Safe to use from several threads; close it when done.

    It has the timeout (seconds) for one answer. ``host`` is the address at which published ports
    are reached, when the guess is wrong.
    """

    def __init__(
        self, endpoint: Endpoint, *, timeout: float, host: str | None, about: Mapping[str, Any]
    ) -> None:
        self._pool = ClientPool(endpoint, timeout=timeout, about=about)
        self.endpoint = endpoint
        self.timeout = timeout
        self._host = host
        self._signals: dict[str, str] = {}  # by container: the last that it was sent from here
        self.images = Images(self._pool)
        self.files = Files(self._pool)

    @property
    def answered(self) -> bool:
        """Whether the daemon has answered anything that was asked here."""
        return self._pool.answered

    @property
    def host(self) -> str:
        """The address at which published ports are reached from this process."""
        return self._published.host

    @property
    def bind_address(self) -> str:
        """The address on the daemon's machine to publish ports on."""
        return self._published.bind_address

    @cached_property
    def _published(self) -> PublishedAddress:
        return published_address(self.endpoint, bridge=self.bridge_gateway, host=self._host)

    @cached_property
    def test_process(self) -> str:
        """The address at which containers reach this process, as `extra_hosts` takes it.

        That of the daemon's machine, where the process runs too. For a remote daemon the address
        from which this machine speaks to that one; for one in a network of its own, as a rootless
        one is, the address from which this machine speaks to the world.
        """
        remote = ipaddress.ip_address(self.bind_address).is_unspecified
        if remote or (self.is_rootless and not self.is_podman):
            with contextlib.suppress(OSError):
                return own_address(self.host if remote else _ELSEWHERE)
        return HOST_GATEWAY

    def bridge_gateway(self) -> str | None:
        """The address of the default bridge on the daemon's machine, or None without one."""
        with IgnoreMissing(), self._pool.client("inspect the default bridge") as client:
            return gateway_of(client.inspect_network("bridge"))
        return None

    def translated(self, error: Exception, doing: str) -> EngineError:
        """The error of ours for one of asking the daemon, which has answered, without docker-py."""
        return self._pool.translated(error, doing, timeout=self.timeout, answered=True)

    def close(self) -> None:
        """Close every connection to the daemon."""
        self._pool.close()

    def info(self) -> EngineInfo:
        """Ask the daemon about itself."""
        with self._pool.client("tell about itself") as client:
            return engine_info(client.info(), client.version())

    def create_container(self, spec: ContainerSpec, /) -> str:
        """Create a container and return its id; what the engine cannot do is a warning."""
        bind_address = self.bind_address if spec.mounts else LOOPBACK
        created = create_container(self._pool, spec, bind_address=bind_address)
        if spec.options.read_only:
            self.files.copy_into(created, self.files.mount_points("/"))
        return created

    @property
    def is_podman(self) -> bool:
        """Whether it is Podman behind Docker's API, which does some things in its own way."""
        return self._pool.is_podman

    @property
    def is_rootless(self) -> bool:
        """Whether it runs without root: its networks are in a namespace of its own."""
        return self._pool.is_rootless

    def start_container(self, container: str, /) -> None:
        """Start a created or stopped container."""
        self._signals.pop(container, None)
        with self._pool.client(f"start container {short_name(container)}") as client:
            client.start(container)

    def container(self, container: str, /) -> ContainerState | None:
        """The container now, or None when it is gone."""
        doing = f"inspect container {short_name(container)}"
        with IgnoreMissing(), self._pool.client(doing) as client:
            return container_state(client.inspect_container(container))
        return None

    def ending(self, state: ContainerState, /) -> Ending:
        """How a container that has ended came to that, as far as state and events tell.

        Since Docker 26 a state says out of memory also where only another process was killed for
        it, and engines now and then do not hear of it. Events tell of it, and of signals that
        others had sent; a daemon remembers its last 256 (Podman tells no signal's number).
        """
        name, lost = _SIGNAL_OF.get(state.exit_code, ""), state.oom_killed
        sent = self._signals.get(state.name) == name
        if name and not sent:
            with contextlib.suppress(EngineError):
                events = self._last_events(state)
                lost = lost or any(action == "oom" for action, _ in events)
                sent = bool({("kill", str(state.exit_code - 128)), ("kill", "")} & {*events})
        return Ending(
            exit_code=state.exit_code, error=state.error, signal=name if sent else "", lost=lost
        )

    def _last_events(self, state: ContainerState) -> Sequence[tuple[str, str]]:
        """What befell a container since its last start, and the numbers of signals."""
        doing = f"tell what befell container {short_name(state.name)}"
        with self._pool.client(doing) as client:
            life = client.inspect_container(state.id)["State"]
            since, end = map(_timestamp, (life["StartedAt"], life["FinishedAt"]))
            asked = {
                "since": f"{since:.6f}",
                "until": f"{end + _LATE:.6f}",
                "filters": json.dumps({"container": [state.id], "type": ["container"]}),
            }
            if self.is_podman:  # which stops reading its log at that time, and Docker waits for it
                asked |= {"stream": "false", "until": ""}
            with open_stream(client, "GET", "/events", params=asked) as response:
                return [
                    (str(step["Action"]), str(step["Actor"]["Attributes"].get("signal", "")))
                    for step in read_steps(response, doing)
                ]

    def kill_container(self, container: str, /, *, signal: str = "SIGKILL") -> None:
        """Send a signal to the container's first process."""
        with self._pool.client(f"signal container {short_name(container)}") as client:
            client.kill(container, signal)
        self._signals[container] = signal

    def pause_container(self, container: str, /) -> None:
        """Freeze every process in the container."""
        with self._pool.client(f"pause container {short_name(container)}") as client:
            client.pause(container)

    def unpause_container(self, container: str, /) -> None:
        """Thaw a frozen container."""
        with self._pool.client(f"unpause container {short_name(container)}") as client:
            client.unpause(container)

    def exec(
        self,
        container: str,
        argv: Sequence[str],
        /,
        *,
        user: str = "",
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
    ) -> ExecResult:
        """Run a command in the container, as the image's user or another, and wait for it."""
        # Only the command's name is in messages: arguments may hold passwords.
        with self._pool.client(f"run {argv[0]} in container {short_name(container)}") as client:
            process = client.exec_create(
                container,
                list(argv),
                user=user,
                workdir=workdir,
                environment=dict(env or {}),
                stdin=stdin is not None,
            )["Id"]
            pieces, exit_code = run_process(client, process, stdin=stdin)
        if stdin and self.is_podman and pieces and _CUT_SHORT.fullmatch(pieces[-1][1]):
            # It cuts off what a command still writes once it reads no more of its input.
            told = f"Podman may have cut off the output: {argv[0]} did not read all of its input"
            if exit_code == 0:
                raise EngineError(f"{told}. Give it only what it reads, or use Docker.")
            pieces[-1] = (STDERR, f"({told})\n".encode())
        return ExecResult(exit_code=exit_code, pieces=pieces)

    def peak_memory(self, container: str, /) -> int | None:
        """The most bytes the container has used, or None; the daemon would take a second."""
        lines = self._read_first(container, _PEAKS).split("\n")
        return next((int(line) for line in lines if line.isdecimal()), None)

    def cpu_seconds(self, container: str, /) -> float:
        """The processor time that the container has used; no command in it would add to that."""
        asked = {"stream": "false", "one-shot": "true"}
        path, doing = f"/containers/{quote(container)}/stats", "tell what a container uses"
        with (
            self._pool.client(doing) as client,
            open_stream(client, "GET", path, params=asked) as response,
        ):
            return float(response.json()["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9

    def oom_kills(self, container: str, /) -> int:
        """How many processes were killed for lack of memory; the daemon knows of the first."""
        counts = (line.split() for line in self._read_first(container, _OOM_KILLS).split("\n"))
        return sum(int(words[1]) for words in counts if words[:1] == ["oom_kill"])

    def _read_first(self, container: str, paths: Sequence[str]) -> str:
        """The files of a running container that there are; empty where that cannot be known."""
        with contextlib.suppress(EngineError):
            return self.exec(container, ["cat", *paths]).output
        return ""

    def logs(
        self,
        container: str,
        /,
        *,
        tail: int | None = None,
        since: datetime | None = None,
        after: str = "",
    ) -> str:
        """The container's stdout and stderr in order.

        From a moment of this machine's clock on, or after a time as `last_log_time` tells it.
        """
        begin = max((since + self._ahead).timestamp() if since else 0.0, _just_after(after))
        with self._pool.client(f"read the logs of container {short_name(container)}") as client:
            lines = "all" if tail is None else tail
            output: bytes = client.logs(container, tail=lines, since=begin or None)
        return output.decode(errors="replace")

    def last_log_time(self, container: str, /) -> str:
        """The time of the last line so far, by the daemon's clock; empty without one."""
        with self._pool.client(f"read the log of container {short_name(container)}") as client:
            output: bytes = client.logs(container, tail=1, timestamps=True)
        return output.decode(errors="replace").partition(" ")[0]

    def log_lines(
        self, container: str, /, *, after: str, follow: bool
    ) -> tuple[Iterator[str], Callable[[], None]]:
        """Each line after such a time; and what ends it in another thread.

        With `follow`, as it is written, until the container ends or is removed.
        """
        cut, since = Cut(), _just_after(after)
        return read_log(self._pool, container, cut=cut, follow=int(follow), since=since), cut.now

    def follow_logs(self, container: str, /, *, after: str) -> Iterator[tuple[str, str]]:
        """The same, each with its time; of a very long line, every piece has one."""
        since = _timestamp(after)
        for line in read_log(self._pool, container, cut=Cut(), follow=1, since=since, timestamps=1):
            at, _, text = line.partition(" ")
            if at > after:
                yield at, text

    @cached_property
    def _ahead(self) -> timedelta:
        """How far the daemon's clock is ahead of ours, at the least: no line may be lost."""
        with self._pool.client("tell its time") as client:
            before = datetime.now(UTC)
            its = datetime.fromisoformat(client.info()["SystemTime"])
            after = datetime.now(UTC)
        return timedelta() if before <= its <= after else its - after

    def create_network(
        self,
        name: str,
        /,
        *,
        labels: Mapping[str, str],
        subnet: str | None = None,
        internal: bool = False,
    ) -> str:
        """Create a bridge network, with a way out unless it is internal, and return its id."""
        pool = {"Driver": "default", "Config": [{"Subnet": subnet}]} if subnet else None
        with self._pool.client(f"create network {name}") as client:
            created = client.create_network(
                name,
                driver="bridge",
                ipam=pool,
                labels={**labels, Label.NAME: name},
                check_duplicate=True,
                internal=internal,
            )
            return str(created["Id"])

    def subnets(self) -> Sequence[str]:
        """The subnets of all networks of this daemon, ours or not."""
        with self._pool.client("list networks") as client:
            return [
                config["Subnet"]
                for network in client.networks()
                for config in (network["IPAM"]["Config"] or [])
                if "Subnet" in config
            ]

    def connect_network(
        self,
        network: str,
        /,
        *,
        container: str,
        aliases: Sequence[str] = (),
        address: str | None = None,
    ) -> None:
        """Attach a container to a network, at an address that `disconnect_network` gave."""
        doing = f"connect {short_name(container)} to network {short_name(network)}"
        with self._pool.client(doing) as client:
            client.connect_container_to_network(
                container, network, aliases=list(aliases), ipv4_address=address
            )

    def disconnect_network(self, network: str, /, *, container: str) -> str | None:
        """Detach a container from a network; the address to come back at, None where any will do.

        With Podman connections go to the container itself, not to a proxy that would end them: they
        hang when it comes back elsewhere.
        """
        doing = f"disconnect {short_name(container)} from network {short_name(network)}"
        address = None
        with IgnoreMissing(), self._pool.client(doing) as client:
            if self.is_podman:  # which would disconnect what is not connected
                found = client.inspect_container(container)["NetworkSettings"]["Networks"] or {}
                if network not in found:
                    raise EngineError(f"The Docker daemon failed to {doing}: it is not connected")
                address = found[network].get("IPAddress") or None
            client.disconnect_container_from_network(container, network)
        return address

    def create_volume(self, name: str, /, *, labels: Mapping[str, str]) -> None:
        """Create an empty volume."""
        with self._pool.client(f"create volume {name}") as client:
            client.create_volume(name, labels={**labels, Label.NAME: name})


def _timestamp(at: str) -> float:
    """A time as the daemon writes it; 0 for none."""
    return datetime.fromisoformat(at).timestamp() if at else 0.0


def _just_after(at: str) -> float:
    """A time of a log's line as the daemon takes it: what is later by a microsecond."""
    return _timestamp(at) + 1e-6 if at else 0.0
