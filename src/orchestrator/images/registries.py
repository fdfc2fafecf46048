"""Two ways to ask a registry: directly, or through the daemon where only that one reaches it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from orchestrator.engine.port import Engine
    from orchestrator.engine.registry import Document, RegistryClient
    from orchestrator.settings import Settings


class Registries:
    """Registries, as far as this process or the daemon reaches them.

    Args:
        client: Asks them directly.
        engine: The daemon, which may have another network, another proxy and other certificates.
    """

    def __init__(self, client: RegistryClient, engine: Engine) -> None:
        self._client = client
        self._engine = engine

    def manifest(self, registry: str, repository: str, reference: str) -> Document:
        """The manifest or index under a tag or digest."""
        return self._client.manifest(registry, repository, reference)

    def blob(self, registry: str, repository: str, digest: str) -> Document:
        """A small blob."""
        return self._client.blob(registry, repository, digest)

    def index_digest(self, reference: str) -> str:
        """What the daemon says a reference stands for; it knows no platforms."""
        return self._engine.index_digest(reference)


def open_registries(engine: Engine, *, settings: Settings) -> Registries:
    """Trust the registries the daemon trusts; without a daemon, only those of this machine.

    Locking needs no daemon, so that it works where images are locked but not run.
    """
    from orchestrator.engine.registry import RegistryClient  # docker-py takes 0.1 s to import

    try:
        insecure = engine.info().insecure_registries
    except EngineError:
        insecure = ()
    client = RegistryClient(timeout=settings.engine_timeout, insecure=insecure)
    return Registries(client, engine)
