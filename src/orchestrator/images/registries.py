"""Which way to ask a registry: directly, or through the daemon where only that one reaches it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from orchestrator.engine.port import Engine
    from orchestrator.engine.registry import RegistryClient
    from orchestrator.settings import Settings


def open_registries(engine: Engine, *, settings: Settings) -> RegistryClient:
    """A client that trusts the registries the daemon trusts; without a daemon, only this machine's.

    Locking needs no daemon, so that it works where images are locked but not run.
    """
    from orchestrator.engine.registry import RegistryClient  # requests takes 0.1 s to import

    try:
        insecure = engine.info().insecure_registries
    except EngineError:
        insecure = ()
    return RegistryClient(timeout=settings.engine_timeout, insecure=insecure)
