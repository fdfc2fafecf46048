"""The port: what the rest of the package may ask of a container engine.

`DockerEngine` implements it through docker-py. Nothing above this room sees docker-py's types or
errors: every method raises `EngineError` (or `EngineUnavailableError` when no daemon answers).
"Not found" on a removal is success: several reapers may be at work at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import threading
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

KINDS: Final = ("container", "network", "volume", "image")


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


class Engine(Protocol):
    """A container engine."""

    @property
    def host(self) -> str:
        """The address at which published ports are reached from this process."""

    @property
    def bind_address(self) -> str:
        """The address on the daemon's machine to publish ports on."""

    @property
    def answered(self) -> bool:
        """Whether the daemon has answered anything that was asked here."""

    def close(self) -> None:
        """Close every connection to the daemon."""

    def info(self) -> EngineInfo:
        """Ask the daemon about itself."""

    # Images

    def image(self, reference: str, /) -> ImageInfo | None:
        """The image under a reference, digest or id, or None when it is not on this machine."""

    def pull_image(
        self,
        reference: str,
        /,
        *,
        platform: str | None = None,
        stopping: threading.Event | None = None,
    ) -> Iterator[PullProgress]:
        """Pull an image; the work happens while the steps are read.

        The daemon has the engine's timeout for each step: a registry that stalls is an error. When
        ``stopping`` is set, or nobody reads on, the daemon gives up too.
        """

    def index_digest(self, reference: str, /) -> str:
        """Have the daemon ask the registry what a reference stands for now."""

    def tag_image(self, reference: str, /, *, as_reference: str) -> None:
        """Give an image another name."""

    def save_images(self, names: Sequence[str], /) -> Iterator[bytes]:
        """The images as one tar, piece by piece; layers they share are in it once."""

    def load_images(self, archive: Iterable[bytes], /) -> Iterator[str]:
        """Load a tar of images; the work happens while the daemon's remarks are read.

        When the archive raises, the daemon gets no end of it and loads nothing.
        """

    def build_image(
        self,
        context: IO[bytes],
        /,
        *,
        name: str,
        dockerfile: str,
        args: Mapping[str, str],
        target: str | None,
        labels: Mapping[str, str],
        stopping: threading.Event | None = None,
    ) -> Iterator[str]:
        """Build an image from a tar; the work happens while what the builder says is read.

        When ``stopping`` is set, or nobody reads on, the daemon gives up too.
        """

    # Networks

    def create_network(
        self, name: str, /, *, labels: Mapping[str, str], subnet: str | None = None
    ) -> str:
        """Create a bridge network and return its id."""

    def remove_network(self, network: str, /) -> None:
        """Remove a network; foreign endpoints are disconnected by force first."""

    def subnets(self) -> Sequence[str]:
        """The subnets of all networks of this daemon, ours or not."""

    def connect_network(
        self, network: str, /, *, container: str, aliases: Sequence[str] = ()
    ) -> None:
        """Attach a container to a network."""

    def disconnect_network(self, network: str, /, *, container: str) -> None:
        """Detach a container from a network."""

    # Containers

    def create_container(self, spec: ContainerSpec, /) -> str:
        """Create a container and return its id."""

    def start_container(self, container: str, /) -> None:
        """Start a created or stopped container."""

    def container(self, container: str, /) -> ContainerState | None:
        """The container now, or None when it is gone."""

    def kill_container(self, container: str, /, *, signal: str = "SIGKILL") -> None:
        """Send a signal to the container's first process."""

    def restart_container(self, container: str, /) -> None:
        """Kill the container and start it again."""

    def pause_container(self, container: str, /) -> None:
        """Freeze every process in the container."""

    def unpause_container(self, container: str, /) -> None:
        """Thaw a frozen container."""

    def remove_container(self, container: str, /) -> None:
        """Kill and remove a container with its anonymous volumes; return when it is gone."""

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

    def follow_logs(self, container: str, /, *, after: str = "") -> Iterator[tuple[str, str]]:
        """Each line as it is written, with its time, until the container ends or is removed.

        Args:
            container: The container.
            after: Only lines after this time, as it came with an earlier line.
        """

    def peak_memory(self, container: str, /) -> int | None:
        """The most bytes the container has used; None when the kernel does not say."""

    def oom_kills(self, container: str, /) -> int:
        """How many of the container's processes were killed for lack of memory, as far as known."""

    def exec(self, container: str, argv: Sequence[str], /, *, user: str = "") -> ExecResult:
        """Run a command in the container, as the image's user or another, and wait for it."""

    def put_files(
        self,
        container: str,
        files: Mapping[str, bytes],
        /,
        *,
        links: Mapping[str, str] | None = None,
    ) -> None:
        """Write files into a created or running container.

        Args:
            container: Its name or id.
            files: Path to content.
            links: Path to where a symbolic link there leads, in a folder that every user may
                write to.
        """

    # Everything by label

    def labelled(
        self, labels: Mapping[str, str], /, *, kinds: Collection[str] = KINDS
    ) -> Sequence[Listed]:
        """Containers (also stopped), networks, volumes and images that carry all these labels.

        Also what inherited them from an image. Each kind is a request of its own, which a daemon
        may refuse.
        """

    def remove_volume(self, volume: str, /) -> None:
        """Remove a volume by force."""

    def remove_image(self, image: str, /) -> None:
        """Remove an image."""
