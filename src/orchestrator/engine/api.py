"""What the engine is asked for and what it answers, as plain data; docker-py is not needed here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KINDS: Final = ("container", "network", "volume", "image")


class Label:
    """The labels on everything this project creates (their names are fixed).

    Attributes:
        NAME: The name of the thing itself. ``docker commit`` copies all labels to an image, and
            ``docker run`` from there to a container: the name tells a thing from what only
            inherited its labels.
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
    """A container as the daemon sees it now.

    Attributes:
        status: Docker's word: created, running, paused, restarting, exited, dead.
        health: Docker's healthcheck word, or None without a healthcheck.
        networks: Network name to the container's address on it.
    """

    id: str
    name: str
    image_id: str
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
class Listed:
    """One labelled container, network, volume or image, as a listing shows it.

    Attributes:
        kind: ``"container"``, ``"network"``, ``"volume"`` or ``"image"``.
        id: What a removal takes.
        name: What a person recognises.
        names: Every name it has, or every tag; none for a container that is going already.
        status: For containers, Docker's word such as ``running``; empty otherwise.
    """

    kind: str
    id: str
    name: str
    labels: Mapping[str, str]
    names: Sequence[str] = ()
    status: str = ""
    image: str = ""


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """An image on this machine.

    Attributes:
        id: The config digest (``sha256:…``).
        repo_digests: ``name@sha256:…`` for every repository it was pulled from.
    """

    id: str
    tags: Sequence[str]
    repo_digests: Sequence[str]
    os: str
    architecture: str
    size: int
    variant: str = ""


@dataclass(frozen=True, kw_only=True)
class PullProgress:
    """One step of a pull.

    Attributes:
        layer: The layer it speaks of, or empty for the image as a whole.
        current: Bytes done of the layer.
        total: Bytes of the layer, 0 when unknown.
    """

    layer: str
    status: str
    current: int = 0
    total: int = 0


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """The daemon in a few words.

    Attributes:
        insecure_registries: Hosts and networks (CIDR) it talks to without a trusted certificate.
    """

    version: str
    api_version: str
    os: str
    architecture: str
    cpus: int
    memory: int
    storage_driver: str
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
        image_id=inspected["Image"],
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


def listed(kind: str, row: Mapping[str, Any]) -> Listed:
    """Read one row of the daemon's list of a kind."""
    names: Sequence[str]
    if kind == "container":
        names = [name.lstrip("/") for name in row["Names"] or ()]
    elif kind == "image":
        names = row.get("RepoTags") or ()
    else:
        names = [row["Name"]]
    id_ = row["Name"] if kind == "volume" else row["Id"]
    return Listed(
        kind=kind,
        id=id_,
        name=names[0] if names else id_,
        names=names,
        labels=dict(row["Labels"] or {}),
        status=row["State"] if kind == "container" else "",
        image=row["Image"] if kind == "container" else "",
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
        storage_driver=info["Driver"],
        root_dir=info["DockerRootDir"],
        insecure_registries=[*networks, *insecure],
    )
