"""`DockerEngine`: the port, through docker-py."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from orchestrator.engine.docker_client import ClientPool
from orchestrator.engine.docker_containers import NOT_FOUND, DockerContainers
from orchestrator.engine.docker_images import DockerImages
from orchestrator.engine.docker_networks import DockerNetworks
from orchestrator.engine.docker_watching import DockerWatching
from orchestrator.engine.port import EngineInfo, Listed
from orchestrator.engine.reach import Reach, find_reach
from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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

    def labelled(self, labels: Mapping[str, str], /) -> Sequence[Listed]:
        """Containers (also stopped), networks, volumes and images that carry all these labels."""
        filters = {"label": [f"{name}={value}" for name, value in labels.items()]}
        with self._pool.client("list what carries our labels") as client:
            containers = client.containers(all=True, filters=filters)
            networks = client.networks(filters=filters)
            volumes = client.volumes(filters=filters)["Volumes"] or []
            images = client.images(filters=filters)
        return [
            *(_listed_container(found) for found in containers),
            *(_listed("network", found["Id"], found["Name"], found) for found in networks),
            *(_listed("volume", found["Name"], found["Name"], found) for found in volumes),
            *(_listed("image", found["Id"], _image_name(found), found) for found in images),
        ]

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


def _listed(kind: str, id: str, name: str, found: Mapping[str, Any]) -> Listed:  # noqa: A002
    return Listed(kind=kind, id=id, name=name, labels=dict(found["Labels"] or {}))


def _listed_container(found: Mapping[str, Any]) -> Listed:
    name = (found["Names"] or [found["Id"][:12]])[0].lstrip("/")
    return Listed(
        kind="container",
        id=found["Id"],
        name=name,
        labels=dict(found["Labels"] or {}),
        status=found["State"],
        image=found["Image"],
    )


def _image_name(found: Mapping[str, Any]) -> str:
    tags: Sequence[str] = found.get("RepoTags") or [found["Id"]]
    return tags[0]
