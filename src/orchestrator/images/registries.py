"""Two ways to ask a registry: directly, or through the daemon where only that one reaches it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import EngineError
from orchestrator.images.presence import own_platform

if TYPE_CHECKING:
    from orchestrator.engine.api import ImageInfo
    from orchestrator.engine.docker import Engine
    from orchestrator.engine.registry import Document, RegistryClient
    from orchestrator.settings import Settings


class Registries:
    """Registries, as far as this process or the daemon reaches them.

    Args:
        client: Asks them directly.
        engine: The daemon, which may have another network, another proxy and other certificates.
        platform: What images must be made for to run on this machine, such as ``linux/amd64``.
    """

    def __init__(self, client: RegistryClient, engine: Engine, *, platform: str) -> None:
        self._client = client
        self._engine = engine
        self.platform = platform

    def manifest(self, registry: str, repository: str, reference: str) -> Document:
        """The manifest or index under a tag or digest."""
        return self._client.manifest(registry, repository, reference)

    def blob(self, registry: str, repository: str, digest: str) -> Document:
        """A small blob."""
        return self._client.blob(registry, repository, digest)

    def index_digest(self, reference: str) -> str:
        """What the daemon says a reference stands for; it knows no platforms."""
        return self._engine.images.index_digest(reference)

    def image(self, reference: str) -> ImageInfo | None:
        """The image that the daemon has under a reference."""
        return self._engine.images.find(reference)


def open_registries(engine: Engine, *, settings: Settings) -> Registries:
    """Trust the registries the daemon trusts; without a daemon, only those of this machine.

    Locking needs no daemon, so that it works where images are locked but not run.
    """
    from orchestrator.engine.registry import RegistryClient  # docker-py takes 0.1 s to import

    try:
        info = engine.info()
        insecure, platform = info.insecure_registries, f"{info.os}/{info.architecture}"
    except EngineError:
        insecure, platform = (), own_platform()
    client = RegistryClient(timeout=settings.engine_timeout, insecure=insecure)
    return Registries(client, engine, platform=platform)
