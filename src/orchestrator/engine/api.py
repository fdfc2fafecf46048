"""What the engine is asked for and what it answers, as plain data; docker-py is not needed here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Label:
    """The labels on everything this project creates (their names are fixed).

    NAME, a thing's own name, tells it from an image or a container that inherited its labels.
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


@dataclass(frozen=True, kw_only=True)
class ContainerState:
    """A container as the daemon sees it now, in its words; its address on each network."""

    id: str
    name: str
    status: str
    exit_code: int
    oom_killed: bool
    error: str
    health: str | None
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
class ImageInfo:
    """An image on this machine; its id is the config digest, as `name@sha256:…` in repo_digests."""

    id: str
    tags: Sequence[str]
    repo_digests: Sequence[str]
    os: str
    architecture: str
    size: int
    variant: str = ""


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
    """What a command in a container did."""

    exit_code: int
    output: str


def image_info(inspected: Mapping[str, Any]) -> ImageInfo:
    """Read the daemon's answer about an image (``GET /images/NAME/json``)."""
    return ImageInfo(
        id=inspected["Id"],
        tags=tuple(inspected.get("RepoTags") or ()),
        repo_digests=tuple(inspected.get("RepoDigests") or ()),
        os=inspected["Os"],
        architecture=inspected["Architecture"],
        variant=inspected.get("Variant") or "",
        size=inspected["Size"],
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
        networks={
            name: network["IPAddress"]
            for name, network in inspected["NetworkSettings"]["Networks"].items()
        },
    )


def engine_info(info: Mapping[str, Any], version: Mapping[str, Any]) -> EngineInfo:
    """Read the daemon's answers about itself."""
    registries = info.get("RegistryConfig") or {}
    networks: Sequence[str] = registries.get("InsecureRegistryCIDRs") or ()
    hosts = registries.get("IndexConfigs") or {}
    insecure = [name for name, about in hosts.items() if not about.get("Secure", True)]
    return EngineInfo(
        version=version["Version"],
        api_version=version["ApiVersion"],
        os=version["Os"],
        architecture=version["Arch"],
        cpus=info["NCPU"],
        memory=info["MemTotal"],
        root_dir=info["DockerRootDir"],
        insecure_registries=[*networks, *insecure],
    )
