"""The container engine, through docker-py: containers and networks.

Nothing above this package sees docker-py's types or errors: every method raises `EngineError`
(`EngineUnavailableError` when no daemon answers). What was created is listed and removed by
`sessions`, which can do so without docker-py.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import json
import os
import re
import signal
import time
import warnings
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote

from orchestrator.engine.api import (
    TEST_PROCESS,
    Copy,
    Ending,
    ExecResult,
    Label,
    container_state,
    engine_info,
    product_of,
)
from orchestrator.engine.client import ClientPool, IgnoreMissing, short_name
from orchestrator.engine.docker_py import docker
from orchestrator.engine.endpoint import PublishedAddress, own_address, published_address
from orchestrator.engine.files import pack_copies, read_file, real_path
from orchestrator.engine.images import Images
from orchestrator.engine.streams import (
    Cut,
    exchange,
    open_stream,
    read_at_once,
    read_frames,
    read_lines,
    read_pieces,
    read_steps,
)
from orchestrator.errors import EngineError, EngineWarning, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from orchestrator.engine.api import (
        ContainerSpec,
        ContainerState,
        EngineInfo,
        RunOptions,
    )
    from orchestrator.engine.endpoint import Endpoint

_NOT_FOUND, _CONFLICT = 404, 409
_BY_SIGNAL: Final = 128  # exit codes above tell the signal that ended a process
_LATE: Final = (0.5, 1.0, 2.0, 4.0)  # seconds by which an event may come after what it tells of
_EXIT_POLL: Final = 0.01  # seconds between two looks at a command that closed its output
_NANO_CPUS: Final = 1_000_000_000
_NETWORK_SECONDS: Final = 5.0
_HOST_GATEWAY: Final = "host-gateway"  # the daemon puts the address there
_ELSEWHERE: Final = "198.51.100.1"  # of a network that is nobody's (RFC 5737)
_ATTACHED: Final = {"Detach": False, "Tty": False}
_ALWAYS_MOUNTED: Final = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
_KEEP_FOLDERS: Final = {"noOverwriteDirNonDir": "true"}
_STDOUT, _STDERR = 1, 2
_CUT_SHORT: Final = re.compile(rb"Error: (read|write) unixpacket \S*/attach: .*\n")
_PIECE: Final = 1 << 16  # bytes
_FOLLOWED: Final = 1e6  # seconds a log may be silent
_PEAKS: Final = (
    "cat",
    "/sys/fs/cgroup/memory.peak",  # control groups version 2, Linux 5.19
    "/sys/fs/cgroup/memory/memory.max_usage_in_bytes",  # version 1
)
_OOM_KILLS: Final = (
    "cat",
    "/sys/fs/cgroup/memory.events",  # control groups version 2
    "/sys/fs/cgroup/memory/memory.oom_control",  # version 1
)


class Engine:
    """A Docker daemon. Safe to use from several threads; close it when done.

    Args:
        endpoint: Where the daemon is.
        timeout: Seconds the daemon has for one answer.
        host: The address at which published ports are reached, when the guess is wrong.
    """

    def __init__(self, endpoint: Endpoint, *, timeout: float, host: str | None = None) -> None:
        self._pool = ClientPool(endpoint, timeout=timeout)
        self.endpoint = endpoint
        self.timeout = timeout
        self._host = host
        self._signals: dict[str, str] = {}  # by container: the last that it was sent from here
        self.images = Images(self._pool)

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
        """The address at which containers reach this process, as `ContainerSpec.hosts` takes it.

        That of the daemon's machine, where the process runs too; of a remote daemon, the address
        from which this machine speaks to that one; of one in a network of its own, as a rootless
        one is, the address from which it speaks to the world.
        """
        remote = ipaddress.ip_address(self.bind_address).is_unspecified
        if remote or (self.is_rootless and not self.is_podman):
            with contextlib.suppress(OSError):
                return own_address(self.host if remote else _ELSEWHERE)
        return _HOST_GATEWAY

    def bridge_gateway(self) -> str | None:
        """The address of the default bridge on the daemon's machine, or None without one."""
        with IgnoreMissing(), self._pool.client("inspect the default bridge") as client:
            for config in client.inspect_network("bridge")["IPAM"]["Config"] or []:
                if ":" in config.get("Subnet", ""):
                    continue  # ports are published on IPv4
                if gateway := config.get("Gateway"):
                    return str(gateway)
                if subnet := config.get("Subnet"):  # some daemons name only this; it has the first
                    return str(ipaddress.ip_network(subnet)[1])
        return None

    def close(self) -> None:
        """Close every connection to the daemon."""
        self._pool.close()

    def info(self) -> EngineInfo:
        """Ask the daemon about itself."""
        with self._pool.client("tell about itself") as client:
            return engine_info(client.info(), client.version())

    # Containers

    def create_container(self, spec: ContainerSpec, /) -> str:
        """Create a container and return its id; what the engine cannot do is a warning."""
        hosts = dict(spec.options.extra_hosts)
        if self.is_podman:
            self._check_mounts(spec)
            # It knows no container whose network is still in the making, as Docker does.
            gateway = spec.network and self._gateway(spec.network)
            if hosts.get(TEST_PROCESS) == _HOST_GATEWAY:
                hosts.pop(TEST_PROCESS)  # before 5.3 it takes the word for an address
                if gateway and not self.is_rootless:  # which knows the machine by itself
                    hosts[TEST_PROCESS] = gateway
        try:
            return self._create(spec, hosts)
        except EngineError as error:
            if _HOST_GATEWAY not in str(error) or hosts.pop(TEST_PROCESS, None) is None:
                raise
        return self._create(spec, hosts)  # Docker before 20.10

    @cached_property
    def is_podman(self) -> bool:
        """Whether it is Podman behind Docker's API, which does some things in its own way."""
        return product_of(self._version) == "Podman"

    @cached_property
    def is_rootless(self) -> bool:
        """Whether it runs without root: its networks are in a namespace of its own."""
        if not self.is_podman:
            return "rootlesskit" in str(self._version.get("Components"))
        with self._pool.client("tell about itself") as client:
            return "name=rootless" in client.info()["SecurityOptions"]

    @cached_property
    def _version(self) -> Mapping[str, Any]:
        with self._pool.client("tell its version") as client:
            return client.version()  # type: ignore[no-any-return]

    def _check_mounts(self, spec: ContainerSpec) -> None:
        """Podman makes a folder where the source is missing; Docker refuses."""
        if not ipaddress.ip_address(self.bind_address).is_unspecified:  # its machine is this one
            missing = [path for path in spec.mounts.values() if not os.path.lexists(path)]
            if missing:
                raise EngineError(
                    f"Container {spec.name} cannot be created: "
                    f"bind source path does not exist: {missing[0]}"
                )

    def _gateway(self, network: str) -> str | None:
        """The address of the daemon's machine in a network, which may be in the making."""
        deadline = time.monotonic() + _NETWORK_SECONDS
        while time.monotonic() < deadline:
            doing = f"inspect network {network}"
            with IgnoreMissing(), self._pool.client(doing) as client:
                configs = client.inspect_network(network)["IPAM"]["Config"] or []
                return next((it["Gateway"] for it in configs if "." in it.get("Gateway", "")), None)
            time.sleep(_EXIT_POLL)
        return None

    def _create(self, spec: ContainerSpec, hosts: Mapping[str, str]) -> str:
        with self._pool.client(f"create container {spec.name}") as client:
            config = client.create_container_config(
                spec.image,
                command=spec.command and list(spec.command),
                environment=dict(spec.env),
                entrypoint=spec.entrypoint and list(spec.entrypoint),
                user=spec.user,
                labels={**spec.labels, Label.NAME: spec.name},
                ports=[tuple(port.split("/")) for port in spec.ports],
                host_config=_host_config(client, spec, hosts),
                networking_config=_networking(client, spec),
                # Its removal by force would be SIGTERM, and SIGKILL after this time only.
                stop_timeout=0 if self.is_podman else None,
                **_set(spec.options, "working_dir", "hostname", "domainname", "tty", "stdin_open"),
            )
            created = client.create_container_from_config(config, spec.name, spec.options.platform)
        for said in created.get("Warnings") or ():
            # Without the container's name, so that Python shows the same words once.
            told = f"The Docker daemon, of a container that it created: {said}"
            warnings.warn(printable(told, lines=False), EngineWarning, stacklevel=2)
        if spec.options.read_only:
            self.copy_into(created["Id"], self.mount_points("/"))
        return str(created["Id"])

    def mount_points(self, folder: str) -> Sequence[Copy]:
        """What must be in a folder that is read-only once the container runs.

        Podman mounts files of its own over these, and cannot make them by then; Docker can.
        """
        found = [path for path in _ALWAYS_MOUNTED if path.startswith(f"{folder.rstrip('/')}/")]
        return [Copy(path=path, source=b"") for path in found if self.is_podman]

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
        """How a container that has ended came to that: its state does not tell who killed it."""
        lost, sent = state.oom_killed, None
        number = state.exit_code - _BY_SIGNAL
        if number > 0 and self._signals.get(state.name) == _signal_name(number):
            sent = _signal_name(number)
        elif number > 0:
            with contextlib.suppress(EngineError):
                for late in _LATE:
                    events = self._events(state, late=late)
                    if _has_died(events):
                        break
                    if self.is_podman:  # which does not wait for what is to come
                        time.sleep(late / 4)
                lost = lost or any(action == "oom" for action, _ in events)
                # Podman tells no number.
                if {("kill", str(number)), ("kill", "")} & {*events}:
                    sent = _signal_name(number)
                elif _has_died(events):
                    sent = ""  # else they are forgotten: a daemon keeps its last 256
        return Ending(exit_code=state.exit_code, error=state.error, signal=sent, lost=lost)

    def _events(self, state: ContainerState, *, late: float) -> Sequence[tuple[str, str]]:
        """What befell a container from its last start to its end, and the numbers of signals."""
        since, until = (datetime.fromisoformat(it).timestamp() for it in _life_of(state))
        asked = {
            "since": f"{since:.6f}",
            "until": f"{until + late:.6f}",
            "filters": json.dumps({"container": [state.id], "type": ["container"]}),
        }
        if self.is_podman:  # which stops reading its log at that time, and Docker waits for it
            asked = {**asked, "stream": "false", "until": ""}
        doing = f"tell what befell container {short_name(state.name)}"
        with (
            self._pool.client(doing) as client,
            open_stream(client, "GET", "/events", params=asked) as response,
        ):
            return [
                (str(step["Action"]), str(step["Actor"]["Attributes"].get("signal", "")))
                for step in read_steps(response, doing)
                if step["timeNano"] < (until + late) * 1e9
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

    def copy_into(
        self,
        container: str,
        copies: Sequence[Copy],
        /,
        *,
        links: Mapping[str, str] | None = None,
    ) -> None:
        """Put files and folders into a created or running container, never a file over a folder.

        Folders on the way are made if need be. Links lead to their targets from a folder that all
        users may write to.
        """
        if not copies and not links:
            return
        read = functools.partial(self.get_file, container)
        for folder, its in self._by_volume(container, copies).items():
            in_it = links or {} if folder == "/" else {}
            if its or in_it:
                packed = pack_copies(its, in_it, folder=folder, read=read)
                self.unpack(container, packed, folder=folder)

    def _by_volume(self, container: str, copies: Sequence[Copy]) -> Mapping[str, Sequence[Copy]]:
        """What goes to the root, or to a volume, below which Podman would put it otherwise."""
        found: dict[str, list[Copy]] = {"/": []}
        if not self.is_podman:
            return {"/": copies}
        with self._pool.client(f"inspect container {short_name(container)}") as client:
            mounts = client.inspect_container(container)["Mounts"] or ()
        volumes = [str(it["Destination"]) for it in mounts if it["Type"] == "volume"]
        for copy in copies:
            around = [path for path in volumes if f"{copy.path}/".startswith(f"{path}/")]
            found.setdefault(max(around, key=len, default="/"), []).append(copy)
        return found

    def unpack(self, container: str, tar: bytes, /, *, folder: str = "/") -> None:
        """Unpack a tar in a folder of a created or running container."""
        # docker-py's own put_archive would have a file replace a whole folder.
        path, asked = f"/containers/{quote(container)}/archive", {"path": folder, **_KEEP_FOLDERS}
        doing = f"write files into container {short_name(container)}"
        with (
            self._pool.client(doing) as client,
            open_stream(client, "PUT", path, params=asked, data=tar),
        ):
            pass

    def get_file(self, container: str, path: str, /) -> bytes:
        """The content of a file of a container, which may have ended; links are followed.

        What the container has in memory is not seen.

        Raises:
            EngineError: There is none (status 404), or it is a folder or a device.
        """
        with self._pool.client(f"read {path} in container {short_name(container)}") as client:
            return read_file(client, container, path)

    def real_path(self, container: str, path: str, /) -> str:
        """A path without links on its way, as far as it exists; what is in memory is not seen."""
        with self._pool.client(f"find {path} in container {short_name(container)}") as client:
            return real_path(client, container, path)

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
            path = f"/exec/{process}/start"
            if stdin is None:
                # docker-py's own exec_start waits for ever for the next piece of output.
                with open_stream(client, "POST", path, json=_ATTACHED) as response:
                    pieces = list(read_frames(read_pieces(response, _PIECE)))
            else:
                pieces = list(read_frames(exchange(client, path, _ATTACHED, stdin)))
            exit_code: int = _await_exit(client, process)["ExitCode"]
            if stdin and self.is_podman:
                _check_whole(pieces, argv[0], exit_code)
        return ExecResult(
            exit_code=exit_code,
            output=b"".join(piece for _, piece in pieces).decode(errors="replace"),
            stdout_bytes=b"".join(piece for stream, piece in pieces if stream == _STDOUT),
            stderr_bytes=b"".join(piece for stream, piece in pieces if stream != _STDOUT),
        )

    def output_of(
        self, container: str, argv: Sequence[str], /, *, user: str, stdin: bytes
    ) -> bytes:
        """What a command wrote to stdout, which may be much.

        Raises:
            EngineError: It failed; the message is what it wrote to stderr.
        """
        with self._pool.client(f"run {argv[0]} in container {short_name(container)}") as client:
            process = client.exec_create(container, list(argv), user=user, stdin=True)["Id"]
            written: dict[bool, list[bytes]] = {True: [], False: []}
            path = f"/exec/{process}/start"
            for stream, piece in read_frames(exchange(client, path, _ATTACHED, stdin)):
                written[stream == _STDOUT].append(piece)
            exit_code = _await_exit(client, process)["ExitCode"]
            if stdin and self.is_podman:
                _check_whole([(_STDERR, it) for it in written[False]], argv[0], exit_code)
            if exit_code != 0:
                said = b"".join(written[False]).decode(errors="replace").strip()
                raise EngineError(f"A command in container {short_name(container)} failed: {said}")
        return b"".join(written[True])

    def changes(self, container: str, /) -> Sequence[str]:
        """The paths that differ from the image; what is in memory or in volumes is not seen."""
        with self._pool.client(f"compare container {short_name(container)}") as client:
            return [str(change["Path"]) for change in client.diff(container) or ()]

    def peak_memory(self, container: str, /) -> int | None:
        """The most bytes the container has used, or None; the daemon would take a second."""
        try:
            result = self.exec(container, _PEAKS)
        except EngineError:
            return None
        return next((int(line) for line in result.output.split("\n") if line.isdecimal()), None)

    def cpu_seconds(self, container: str, /) -> float:
        """The processor time that the container has used; no command in it, which would add to it.

        A daemon older than Docker 20.10 takes two seconds.
        """
        asked = {"stream": "false", "one-shot": "true"}
        path, doing = f"/containers/{quote(container)}/stats", "tell what a container uses"
        with (
            self._pool.client(doing) as client,
            open_stream(client, "GET", path, params=asked) as response,
        ):
            return float(response.json()["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9

    def oom_kills(self, container: str, /) -> int:
        """How many processes were killed for lack of memory; the daemon knows of the first."""
        try:
            result = self.exec(container, _OOM_KILLS)
        except EngineError:
            return 0
        counts = (line.split() for line in result.output.split("\n"))
        return sum(int(words[1]) for words in counts if words[:1] == ["oom_kill"])

    # Logs

    def logs(
        self,
        container: str,
        /,
        *,
        tail: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: str = "",
    ) -> str:
        """The container's stdout and stderr in order.

        Between moments of this machine's clock, or after a time as `last_log_time` tells it.
        """
        begin, end = (at and (at + self._ahead).timestamp() for at in (since, until))
        begin = max(begin or 0.0, _just_after(after)) or None
        with self._pool.client(f"read the logs of container {short_name(container)}") as client:
            lines = "all" if tail is None else tail
            output: bytes = client.logs(container, tail=lines, since=begin, until=end)
        return output.decode(errors="replace")

    def follow_logs(self, container: str, /, *, after: str = "") -> Iterator[tuple[str, str]]:
        """Each line as it is written, with its time, until the container ends or is removed.

        Only lines after a time, as it came with an earlier line.
        """
        since = datetime.fromisoformat(after).timestamp() if after > "1" else 0.0
        lines, _ = self._read_log(container, follow=True, since=since, timestamps=True)
        for line in lines:
            at, _, text = line.partition(" ")
            if at > after:
                yield at, text

    def last_log_time(self, container: str, /) -> str:
        """The time of the last line so far, by the daemon's clock; empty without one."""
        with self._pool.client(f"read the log of container {short_name(container)}") as client:
            output: bytes = client.logs(container, tail=1, timestamps=True)
        return output.decode(errors="replace").partition(" ")[0]

    def log_lines(
        self, container: str, /, *, after: str, follow: bool
    ) -> tuple[Iterator[str], Callable[[], None]]:
        """Each line after such a time, in little memory; and what ends it in another thread.

        With `follow`, as it is written, until the container ends or is removed.
        """
        return self._read_log(container, follow=follow, since=_just_after(after))

    def _read_log(
        self, container: str, *, follow: bool, since: float, timestamps: bool = False
    ) -> tuple[Iterator[str], Callable[[], None]]:
        cut = Cut()
        path, doing = f"/containers/{container}/logs", f"read the log of {short_name(container)}"
        params = {"stdout": 1, "stderr": 1, "follow": int(follow), "since": since}
        params["timestamps"] = int(timestamps)

        def lines() -> Iterator[str]:
            try:
                with self._pool.client(doing, timeout=_FOLLOWED) as client:
                    terminal = client.inspect_container(container)["Config"]["Tty"]
                    with (
                        open_stream(client, "GET", path, params=params) as response,
                        cut.reading(response),
                    ):
                        pieces = read_at_once(response)
                        framed = (text for _, text in read_frames(pieces))
                        yield from read_lines(pieces if terminal else framed)
            except EngineError as error:
                if error.status not in (_NOT_FOUND, _CONFLICT):
                    raise

        return lines(), cut.now

    @cached_property
    def _ahead(self) -> timedelta:
        """How far the daemon's clock is ahead of ours, at the least: no line may be lost."""
        with self._pool.client("tell its time") as client:
            before = datetime.now(UTC)
            its = datetime.fromisoformat(client.info()["SystemTime"])
            after = datetime.now(UTC)
        return timedelta() if before <= its <= after else its - after

    # Networks

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
        """Detach a container from a network.

        Returns:
            The address that it should have when it comes back; None where any will do. With Podman
            connections go to the container itself, not to a proxy that would end them: they hang
            when it comes back elsewhere.
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

    def volumes(self, *labels: str) -> Mapping[str, Mapping[str, str]]:
        """The volumes that were created under these labels (``name`` or ``name=value``): theirs."""
        with self._pool.client("list volumes") as client:
            found = client.volumes(filters={"label": list(labels)})["Volumes"] or ()
        named = {str(it["Name"]): it["Labels"] or {} for it in found}
        return {name: its for name, its in named.items() if its.get(Label.NAME) == name}


def _life_of(state: ContainerState) -> tuple[str, str]:
    """When it started and ended; Python's clock knows no nanoseconds, nor a year 1 as a moment."""
    if state.started < "1971" or state.finished < "1971":
        raise EngineError(f"container {short_name(state.name)} has not run")
    return state.started, state.finished


def _has_died(events: Sequence[tuple[str, str]]) -> bool:
    return any(action.startswith("die") for action, _ in events)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _host_config(client: Any, spec: ContainerSpec, hosts: Mapping[str, str]) -> Any:
    # No restart policy, ever: `always` brings a container back after a reboot.
    return client.create_host_config(
        port_bindings={port: (spec.bind_address, host) for port, host in spec.ports.items()},
        network_mode=f"container:{spec.joins}" if spec.joins else spec.network,
        tmpfs=dict(spec.tmpfs) or None,
        # Not as `binds`: the daemon would make a folder where the source is missing.
        mounts=[
            *(
                docker.types.Mount(path, source, type="bind", read_only=True)
                for path, source in spec.mounts.items()
            ),
            *(
                docker.types.Mount(
                    it.path,
                    it.volume,
                    type="volume",
                    read_only=it.read_only,
                    no_copy=it.no_copy,
                    labels=dict(it.labels) or None,
                )
                for it in spec.volumes
            ),
        ],
        devices=list(spec.devices),
        cap_drop=None if spec.capabilities is None else ["ALL"],
        cap_add=None if spec.capabilities is None else list(spec.capabilities),
        security_opt=None if spec.capabilities is None else ["no-new-privileges"],
        mem_limit=spec.memory,
        memswap_limit=spec.memory,
        nano_cpus=None if spec.cpus is None else int(spec.cpus * _NANO_CPUS),
        pids_limit=spec.pids,
        shm_size=spec.shm_size,
        ulimits=[
            docker.types.Ulimit(name=name, soft=soft, hard=hard)
            for name, (soft, hard) in spec.options.ulimits.items()
        ],
        **_set(spec.options, "init", "read_only", "group_add", "sysctls"),
        extra_hosts=dict(hosts),
        **_set(spec.options, "dns", "dns_search", "dns_opt"),
    )


def _set(options: RunOptions, *names: str) -> dict[str, Any]:
    """Those that are not as the engine has them anyway."""
    return {name: value for name in names if (value := getattr(options, name))}


def _networking(client: Any, spec: ContainerSpec) -> Any:
    if spec.network is None:
        return None
    endpoint = client.create_endpoint_config(aliases=list(spec.aliases))
    return client.create_networking_config({spec.network: endpoint})


def _await_exit(client: Any, process: str) -> Mapping[str, Any]:
    """A command that has closed its output, as soon as the daemon knows that it has ended."""
    deadline = time.monotonic() + client.timeout
    while (found := client.exec_inspect(process))["Running"]:
        if time.monotonic() > deadline:
            raise EngineError(f"The command has closed its output, but runs {client.timeout} s on")
        time.sleep(_EXIT_POLL)
    return cast("Mapping[str, Any]", found)


def _check_whole(pieces: list[tuple[int, bytes]], command: str, exit_code: int) -> None:
    """Podman cuts off what a command still writes once it reads no more of its input.

    Where it failed, for which there may be a reason in the output, that is told there.
    """
    if pieces and _CUT_SHORT.fullmatch(pieces[-1][1]):
        told = f"Podman may have cut off the output: {command} did not read all of its input"
        if exit_code == 0:
            raise EngineError(f"{told}. Give it only what it reads, or use Docker.")
        pieces[-1] = (_STDERR, f"({told})\n".encode())


def _just_after(at: str) -> float:
    """A time of a log's line as the daemon takes it: what is later by a microsecond."""
    if not at:
        return 0.0
    return datetime.fromisoformat(at).timestamp() + 1e-6
