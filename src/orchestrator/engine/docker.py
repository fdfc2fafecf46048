"""The container engine, through docker-py: containers and networks.

Nothing above this package sees docker-py's types or errors: every method raises `EngineError`
(`EngineUnavailableError` when no daemon answers). What was created is listed and removed by
`sessions`, which can do so without docker-py.
"""

from __future__ import annotations

import functools
import io
import ipaddress
import tarfile
import time
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, cast

import docker.types

from orchestrator.engine.api import ExecResult, Label, container_state, engine_info
from orchestrator.engine.client import ClientPool, IgnoreMissing, short_name
from orchestrator.engine.endpoint import PublishedAddress, published_address
from orchestrator.engine.images import Images
from orchestrator.engine.streams import open_stream, read_frames, read_lines
from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.engine.api import (
        ContainerSpec,
        ContainerState,
        Copy,
        EngineInfo,
        RunOptions,
    )
    from orchestrator.engine.endpoint import Endpoint

_NOT_FOUND, _CONFLICT = 404, 409
_EXIT_POLL: Final = 0.01  # seconds between two looks at a command that closed its output
_NANO_CPUS: Final = 1_000_000_000
_ATTACHED: Final = {"Detach": False, "Tty": False}
_MICROSECONDS: Final = 26  # of 2026-11-23T14:00:00.123456789Z
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
        """Create a container and return its id."""
        with self._pool.client(f"create container {spec.name}") as client:
            config = client.create_container_config(
                spec.image,
                command=spec.command and list(spec.command),
                environment=dict(spec.env),
                entrypoint=spec.entrypoint and list(spec.entrypoint),
                user=spec.user,
                labels={**spec.labels, Label.NAME: spec.name},
                ports=[tuple(port.split("/")) for port in spec.ports],
                host_config=_host_config(client, spec),
                networking_config=_networking(client, spec),
                **_set(spec.options, "working_dir", "hostname", "domainname", "tty", "stdin_open"),
            )
            made = client.create_container_from_config(config, spec.name, spec.options.platform)
            return str(made["Id"])

    def start_container(self, container: str, /) -> None:
        """Start a created or stopped container."""
        with self._pool.client(f"start container {short_name(container)}") as client:
            client.start(container)

    def container(self, container: str, /) -> ContainerState | None:
        """The container now, or None when it is gone."""
        doing = f"inspect container {short_name(container)}"
        with IgnoreMissing(), self._pool.client(doing) as client:
            return container_state(client.inspect_container(container))
        return None

    def kill_container(self, container: str, /, *, signal: str = "SIGKILL") -> None:
        """Send a signal to the container's first process."""
        with self._pool.client(f"signal container {short_name(container)}") as client:
            client.kill(container, signal)

    def restart_container(self, container: str, /) -> None:
        """Kill the container and start it again."""
        with self._pool.client(f"restart container {short_name(container)}") as client:
            client.restart(container, timeout=0)

    def pause_container(self, container: str, /) -> None:
        """Freeze every process in the container."""
        with self._pool.client(f"pause container {short_name(container)}") as client:
            client.pause(container)

    def unpause_container(self, container: str, /) -> None:
        """Thaw a frozen container."""
        with self._pool.client(f"unpause container {short_name(container)}") as client:
            client.unpause(container)

    def put_files(
        self,
        container: str,
        files: Mapping[str, bytes],
        /,
        *,
        links: Mapping[str, str] | None = None,
    ) -> None:
        """Write files into a created or running container, readable by every user there.

        Links lead to their targets from a folder that all users may write to.
        """
        with self._pool.client(f"write files into container {short_name(container)}") as client:
            client.put_archive(container, "/", _tar(files, links or {}))

    def copy_into(self, container: str, copies: Sequence[Copy], /) -> None:
        """Put files and folders into a created or running container."""
        try:
            packed = _packed(copies)
        except OSError as error:
            raise EngineError(f"{error.filename} cannot be copied: {error.strerror}") from error
        with self._pool.client(f"copy files into container {short_name(container)}") as client:
            client.put_archive(container, "/", packed)

    def exec(self, container: str, argv: Sequence[str], /, *, user: str = "") -> ExecResult:
        """Run a command in the container, as the image's user or another, and wait for it."""
        # Only the command's name is in messages: arguments may hold passwords.
        with self._pool.client(f"run {argv[0]} in container {short_name(container)}") as client:
            process = client.exec_create(container, list(argv), user=user)["Id"]
            # docker-py's own exec_start waits for ever for the next piece of output.
            start = open_stream(client, "POST", f"/exec/{process}/start", json=_ATTACHED)
            with start as response:
                output = b"".join(read_frames(response))
            exit_code: int = _await_exit(client, process)["ExitCode"]
        return ExecResult(exit_code=exit_code, output=output.decode(errors="replace"))

    def peak_memory(self, container: str, /) -> int | None:
        """The most bytes the container has used, or None; the daemon would take a second."""
        try:
            result = self.exec(container, _PEAKS)
        except EngineError:
            return None
        return next((int(line) for line in result.output.split("\n") if line.isdecimal()), None)

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
    ) -> str:
        """The container's stdout and stderr in order, between moments of this machine's clock."""
        begin, end = (at and (at + self._ahead).timestamp() for at in (since, until))
        with self._pool.client(f"read the logs of container {short_name(container)}") as client:
            lines = "all" if tail is None else tail
            output: bytes = client.logs(container, tail=lines, since=begin, until=end)
        return output.decode(errors="replace")

    def follow_logs(self, container: str, /, *, after: str = "") -> Iterator[tuple[str, str]]:
        """Each line as it is written, with its time, until the container ends or is removed.

        Only lines after a time, as it came with an earlier line.
        """
        since = datetime.fromisoformat(after[:_MICROSECONDS] + "+00:00") if after > "1" else None
        options = {} if since is None else {"since": since.timestamp()}
        doing = f"follow the log of container {short_name(container)}"
        try:
            with self._pool.client(doing) as client:
                pieces = client.logs(
                    container, stream=True, follow=True, timestamps=True, **options
                )
                for line in read_lines(pieces):
                    at, _, text = line.partition(" ")
                    if at > after:
                        yield at, text
        except EngineError as error:
            if error.status not in (_NOT_FOUND, _CONFLICT):
                raise

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
        self, network: str, /, *, container: str, aliases: Sequence[str] = ()
    ) -> None:
        """Attach a container to a network."""
        doing = f"connect {short_name(container)} to network {short_name(network)}"
        with self._pool.client(doing) as client:
            client.connect_container_to_network(container, network, aliases=list(aliases))

    def disconnect_network(self, network: str, /, *, container: str) -> None:
        """Detach a container from a network."""
        doing = f"disconnect {short_name(container)} from network {short_name(network)}"
        with IgnoreMissing(), self._pool.client(doing) as client:
            client.disconnect_container_from_network(container, network)

    def create_volume(self, name: str, /, *, labels: Mapping[str, str]) -> None:
        """Create an empty volume."""
        with self._pool.client(f"create volume {name}") as client:
            client.create_volume(name, labels={**labels, Label.NAME: name})


def _host_config(client: Any, spec: ContainerSpec) -> Any:
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
                    it.path, it.volume, type="volume", read_only=it.read_only, no_copy=it.no_copy
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
        **_set(spec.options, "init", "read_only", "group_add", "sysctls", "extra_hosts"),
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


def _tar(files: Mapping[str, bytes], links: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size = len(content)
            member.mode = 0o755 if content.startswith(b"#!") else 0o644
            archive.addfile(member, io.BytesIO(content))
        for path, target in links.items():
            link = tarfile.TarInfo(path.lstrip("/"))
            link.type, link.linkname = tarfile.SYMTYPE, target
            folder = tarfile.TarInfo(str(PurePosixPath(link.name).parent))
            folder.type, folder.mode = tarfile.DIRTYPE, 0o777
            archive.addfile(folder)
            archive.addfile(link)
    return buffer.getvalue()


def _packed(copies: Sequence[Copy]) -> bytes:
    """Files and folders as a tar, links as links; devices, sockets and pipes stay out."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for copy in copies:
            name = copy.path.lstrip("/")
            if isinstance(copy.source, bytes):
                member = tarfile.TarInfo(name)
                member.size, member.mtime = len(copy.source), int(time.time())
                _owned(member, copy)
                archive.addfile(member, io.BytesIO(copy.source))
            else:
                archive.dereference = not copy.source.is_dir()
                archive.add(copy.source, name, filter=functools.partial(_owned, copy=copy))
    return buffer.getvalue()


def _owned(member: tarfile.TarInfo, copy: Copy) -> tarfile.TarInfo | None:
    """With numbers for owners: the names are this machine's."""
    if member.isdev():
        return None
    member.uname = member.gname = ""
    for name in ("mode", "uid", "gid"):
        if (value := getattr(copy, name)) is not None:
            setattr(member, name, value)
    return member


def _await_exit(client: Any, process: str) -> Mapping[str, Any]:
    """A command that has closed its output, as soon as the daemon knows that it has ended."""
    deadline = time.monotonic() + client.timeout
    while (found := client.exec_inspect(process))["Running"]:
        if time.monotonic() > deadline:
            raise EngineError(f"The command has closed its output, but runs {client.timeout} s on")
        time.sleep(_EXIT_POLL)
    return cast("Mapping[str, Any]", found)
