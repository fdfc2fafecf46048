"""`DockerEngine`: the port, through docker-py."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from orchestrator.engine.docker_client import ClientPool
from orchestrator.engine.docker_containers import NOT_FOUND, DockerContainers
from orchestrator.engine.docker_images import DockerImages
from orchestrator.engine.docker_networks import DockerNetworks
from orchestrator.engine.docker_watching import DockerWatching
from orchestrator.engine.port import KINDS, EngineInfo, Listed
from orchestrator.engine.reach import Reach, find_reach
from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from orchestrator.engine.endpoint import Endpoint


class DockerEngine(DockerContainers, DockerWatching, DockerNetworks, DockerImages):
    """A Docker daemon. Safe to use from several threads; close it when done.

    Args:
        endpoint: Where the daemon is.
        timeout: Seconds the daemon has for one answer.
        host: The address at which published ports are reached, when the guess is wrong.
    """

    def __init__(self, endpoint: Endpoint, *, timeout: float, host: str | None = None) -> None:
        self._pool = ClientPool(endpoint, timeout=timeout)
        self._endpoint = endpoint
        self._host = host

    @property
    def answered(self) -> bool:
        """Whether the daemon has answered anything that was asked here."""
        return self._pool.answered

    @cached_property
    def _reach(self) -> Reach:
        return find_reach(self._endpoint, bridge=self.bridge_gateway, host=self._host)

    @property
    def host(self) -> str:
        """The address at which published ports are reached from this process."""
        return self._reach.host

    @property
    def bind_address(self) -> str:
        """The address on the daemon's machine to publish ports on."""
        return self._reach.bind_address

    def close(self) -> None:
        """Close every connection to the daemon."""
        self._pool.close()

    def info(self) -> EngineInfo:
        """Ask the daemon about itself."""
        with self._pool.client("tell about itself") as client:
            info, version = client.info(), client.version()
        return EngineInfo(
            version=version["Version"],
            api_version=version["ApiVersion"],
            os=version["Os"],
            architecture=version["Arch"],
            cpus=info["NCPU"],
            memory=info["MemTotal"],
            storage_driver=info["Driver"],
            root_dir=info["DockerRootDir"],
            insecure_registries=_insecure(info.get("RegistryConfig") or {}),
        )

    def labelled(
        self, labels: Mapping[str, str], /, *, kinds: Collection[str] = KINDS
    ) -> Sequence[Listed]:
        """Containers (also stopped), networks, volumes and images that carry all these labels.

        Also what inherited them from an image. Each kind is a request of its own, which a daemon
        may refuse.
        """
        filters = {"label": [f"{name}={value}" for name, value in labels.items()]}
        found: list[Listed] = []
        for kind in kinds:
            with self._pool.client(f"list the {kind}s that carry our labels") as client:
                rows: Sequence[Mapping[str, Any]]
                if kind == "container":
                    rows = client.containers(all=True, filters=filters)
                elif kind == "network":
                    rows = client.networks(filters=filters)
                elif kind == "volume":
                    rows = client.volumes(filters=filters)["Volumes"]
                else:
                    rows = client.images(filters=filters)
            found += [_listed(kind, row) for row in rows or ()]
        return found

    def remove_volume(self, volume: str, /) -> None:
        """Remove a volume by force."""
        try:
            with self._pool.client(f"remove volume {volume}") as client:
                client.remove_volume(volume, force=True)
        except EngineError as error:
            if error.status != NOT_FOUND:
                raise


def _insecure(config: Mapping[str, Any]) -> Sequence[str]:
    networks: Sequence[str] = config.get("InsecureRegistryCIDRs") or ()
    hosts = config.get("IndexConfigs") or {}
    return [*networks, *(name for name, about in hosts.items() if not about.get("Secure", True))]


def _listed(kind: str, row: Mapping[str, Any]) -> Listed:
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
