"""What the engine is asked for and what it answers, as plain data; docker-py is not needed here."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

KILLED: Final = 128 + 9
"""The exit code of what SIGKILL ended."""
STDOUT, STDERR = 1, 2
_NOT_FOUND: Final = 404
_OURS: Final = re.compile(r"orchestrator-[0-9a-f]{8}-\d+-(.+)")  # as sessions name them
_ID: Final = re.compile(r"[0-9a-f]{64}")
TEST_PROCESS: Final = "host.docker.internal"
"""What containers call the machine of the test process."""


def short_name(thing: str) -> str:
    """A container or network in a message: the service of one of ours, a name, or a short id."""
    ours = _OURS.fullmatch(thing)
    return ours[1] if ours else thing[:12] if _ID.fullmatch(thing) else thing


class IgnoreMissing:
    """Ends its block early, without an error, when the daemon knows nothing of that name."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        return isinstance(error, EngineError) and error.status == _NOT_FOUND


class Label:
    """The labels on everything this project creates (their names are fixed).

    NAME, a thing's own name, tells it from an image or a container that inherited its labels. KEPT
    is on a volume that says what outlives its owner: ``kind:name`` of each, set apart by blanks.
    SNAPSHOT is on a volume with a server's data, and on that which keeps it: what it is a snapshot
    of; ABOUT, on the latter, has more in JSON.
    """

    MARK: Final = "dev.orchestrator"
    SESSION: Final = "dev.orchestrator.session"
    RUN: Final = "dev.orchestrator.run"
    OWNER: Final = "dev.orchestrator.owner"
    CLASS: Final = "dev.orchestrator.class"
    SERVICE: Final = "dev.orchestrator.service"
    SCOPE: Final = "dev.orchestrator.scope"
    CREATED: Final = "dev.orchestrator.created"
    NAME: Final = "dev.orchestrator.name"
    KEPT: Final = "dev.orchestrator.kept"
    SNAPSHOT: Final = "dev.orchestrator.snapshot"
    ABOUT: Final = "dev.orchestrator.snapshot.about"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What few containers need; names and values are the engine's.

    Attributes:
        extra_hosts: Name to address; ``host-gateway`` is the engine's machine.
        ulimits: Name to soft and hard limit.
        platform: The one that the image has to be for, such as ``linux/amd64``.
    """

    working_dir: str | None = None
    hostname: str | None = None
    domainname: str | None = None
    extra_hosts: Mapping[str, str] = field(default_factory=dict)
    dns: Sequence[str] = ()
    dns_search: Sequence[str] = ()
    dns_opt: Sequence[str] = ()
    ulimits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)
    group_add: Sequence[str] = ()
    init: bool = False
    tty: bool = False
    stdin_open: bool = False
    read_only: bool = False
    platform: str | None = None


@dataclass(frozen=True, kw_only=True)
class VolumeMount:
    """A volume in a container; with ``no_copy`` it does not begin with what the image has there.

    Attributes:
        labels: What it is labelled with should it be gone, as the engine makes an empty one then.
    """

    volume: str
    path: str
    read_only: bool = False
    no_copy: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A file or a folder to be in a container, at a path there.

    Attributes:
        mode: Its permissions. Without, a file or a folder has its own, and so has all below it;
            bytes that are a script have 0755, others 0644.
        owner: User, and perhaps group, as numbers or names of the container, such as
            ``"postgres"``. Without, a file or a folder has its own; bytes belong to root.
    """

    path: str
    source: Path | bytes
    mode: int | None = None
    owner: str | None = None


@dataclass(frozen=True, kw_only=True)
class ContainerSpec:
    """What to create. Sizes are bytes.

    Attributes:
        ports: Container port such as ``"5432/tcp"`` to the host port it is published on.
        bind_address: The host address the ports are published on.
        tmpfs: Container path to mount options, such as ``{"/data": "size=64m"}``.
        mounts: Container path to a path on the daemon's machine, mounted read-only.
        capabilities: What its processes may ever have, such as ``["CHOWN"]``, and that they gain
            none by set-uid programs; None leaves it to the engine.
        devices: Devices of the daemon's machine it may use.
        joins: The container whose network namespace it uses, instead of networks and ports.
        volumes: What is mounted beside `mounts`.
    """

    name: str
    image: str
    labels: Mapping[str, str]
    network: str | None = None
    aliases: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str] | None = None
    entrypoint: Sequence[str] | None = None
    user: str | None = None
    ports: Mapping[str, int] = field(default_factory=dict)
    bind_address: str = "127.0.0.1"
    tmpfs: Mapping[str, str] = field(default_factory=dict)
    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None
    shm_size: int | None = None
    mounts: Mapping[str, str] = field(default_factory=dict)
    capabilities: Sequence[str] | None = None
    devices: Sequence[str] = ()
    joins: str | None = None
    volumes: Sequence[VolumeMount] = ()
    options: RunOptions = field(default_factory=RunOptions)


@dataclass(frozen=True, kw_only=True)
class ContainerState:
    """A container as the daemon sees it now, in its words; its address on each network.

    Attributes:
        oom_killed: Whether the kernel has killed a process of it for lack of memory: with Docker
            26 and later any process, at any time since it started.
        check: Its healthcheck, as in ``["CMD", "true"]``; empty without one.
    """

    id: str
    name: str
    status: str
    exit_code: int
    oom_killed: bool
    error: str
    health: str | None
    check: Sequence[str]
    networks: Mapping[str, str]

    @property
    def running(self) -> bool:
        """Whether its first process is alive."""
        return self.status in ("running", "paused", "restarting")

    @property
    def ended(self) -> bool:
        """Whether its first process has ended."""
        return self.status in ("exited", "dead", "removing")


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How the first process of a container came to its end, as far as that is certain.

    Attributes:
        signal: What the engine was asked to send it, as in ``"SIGKILL"``; empty for nothing.
        lost: Whether the kernel has killed a process of the container for lack of memory.
    """

    exit_code: int
    error: str
    signal: str
    lost: bool

    @property
    def oom_killed(self) -> bool:
        """Whether lack of memory ended it, and not only another process before."""
        return self.lost and self.exit_code == KILLED and not self.signal

    def __str__(self) -> str:
        text = f"exited with exit code {self.exit_code}"
        if self.oom_killed:
            text = f"was killed for lack of memory (OOM) with exit code {self.exit_code}"
        elif self.signal:
            text += f" after {self.signal}, which the engine was asked to send"
        elif self.exit_code == KILLED:
            text += " (SIGKILL, perhaps for lack of memory)"
        if self.lost and not self.oom_killed:
            text += "; a process in it had been killed for lack of memory (OOM)"
        return f"{text}: {self.error}" if self.error else text


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """An image on this machine; its id is the config digest, as `name@sha256:…` in repo_digests.

    `entrypoint` and `command` are what it runs by itself.
    """

    id: str
    tags: Sequence[str]
    repo_digests: Sequence[str]
    os: str
    architecture: str
    size: int
    variant: str = ""
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class PullProgress:
    """One step of a pull: of a layer, in bytes (0 when unknown), or without one of the image."""

    layer: str
    status: str
    current: int = 0
    total: int = 0


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """The daemon in a few words; it needs no trusted certificate of its insecure registries."""

    product: str  # "Docker", or "Podman"
    version: str
    api_version: str
    os: str
    architecture: str
    cpus: int
    memory: int
    root_dir: str
    insecure_registries: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class ExecResult:
    """What a command in a container did. In text, bytes that are not UTF-8 are replaced.

    Attributes:
        exit_code: Of the command; 126 and 127 where it could not be run.
        pieces: What it wrote, in the order in which it came: 1 for stdout or 2 for stderr, and the
            bytes.
    """

    exit_code: int
    pieces: Sequence[tuple[int, bytes]] = field(repr=False)

    @property
    def output(self) -> str:
        """All it wrote, stdout and stderr in the order in which it came, as text."""
        return b"".join(piece for _, piece in self.pieces).decode(errors="replace")

    @property
    def stdout_bytes(self) -> bytes:
        """What it wrote to stdout, as it was."""
        return b"".join(piece for stream, piece in self.pieces if stream == STDOUT)

    @property
    def stderr_bytes(self) -> bytes:
        """What it wrote to stderr, as it was."""
        return b"".join(piece for stream, piece in self.pieces if stream != STDOUT)

    @property
    def stdout(self) -> str:
        """What it wrote to stdout, as text."""
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """What it wrote to stderr, as text."""
        return self.stderr_bytes.decode(errors="replace")


def image_info(inspected: Mapping[str, Any]) -> ImageInfo:
    """Read the daemon's answer about an image (``GET /images/NAME/json``)."""
    config = inspected.get("Config") or {}
    return ImageInfo(
        id=inspected["Id"],
        tags=tuple(inspected.get("RepoTags") or ()),
        repo_digests=tuple(inspected.get("RepoDigests") or ()),
        os=inspected["Os"],
        architecture=inspected["Architecture"],
        variant=inspected.get("Variant") or "",
        size=inspected["Size"],
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
    )


def container_state(inspected: Mapping[str, Any]) -> ContainerState:
    """Read the daemon's answer about a container."""
    state = inspected["State"]
    return ContainerState(
        id=inspected["Id"],
        name=inspected["Name"].lstrip("/"),
        status=state["Status"],
        exit_code=state["ExitCode"],
        oom_killed=state["OOMKilled"],
        error=state["Error"],
        health=(state.get("Health") or {}).get("Status"),
        check=(inspected["Config"].get("Healthcheck") or {}).get("Test") or (),
        networks={
            name: network["IPAddress"]
            for name, network in inspected["NetworkSettings"]["Networks"].items()
        },
    )


def product_of(version: Mapping[str, Any]) -> str:
    """Whether the daemon's answer about its version is of "Docker" or of "Podman"."""
    parts = [str(part.get("Name")) for part in version.get("Components") or ()]
    return "Podman" if any("Podman" in part for part in parts) else "Docker"


def gateway_of(network: Mapping[str, Any]) -> str | None:
    """The IPv4 address of the daemon's machine in a network, as the daemon describes that."""
    for config in network["IPAM"]["Config"] or []:
        if ":" in config.get("Subnet", ""):
            continue
        if gateway := config.get("Gateway"):
            return str(gateway)
        if subnet := config.get("Subnet"):  # some daemons name only this; it has the first
            return str(ipaddress.ip_network(subnet)[1])
    return None


def engine_info(info: Mapping[str, Any], version: Mapping[str, Any]) -> EngineInfo:
    """Read the daemon's answers about itself."""
    registries = info.get("RegistryConfig") or {}
    networks: Sequence[str] = registries.get("InsecureRegistryCIDRs") or ()
    hosts = registries.get("IndexConfigs") or {}
    insecure = [name for name, about in hosts.items() if not about.get("Secure", True)]
    return EngineInfo(
        product=product_of(version),
        version=version["Version"],
        api_version=version["ApiVersion"],
        os=version["Os"],
        architecture=version["Arch"],
        cpus=info["NCPU"],
        memory=info["MemTotal"],
        root_dir=info["DockerRootDir"],
        insecure_registries=[*networks, *insecure],
    )
