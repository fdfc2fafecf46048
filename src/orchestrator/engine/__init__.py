"""The Docker daemon: the only package that imports docker-py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.engine.endpoint import Endpoint, find_endpoint

if TYPE_CHECKING:
    from orchestrator.engine.docker import Engine
    from orchestrator.settings import Settings

__all__ = ["Endpoint", "connect", "find_endpoint"]


def connect(settings: Settings, *, endpoint: Endpoint | None = None) -> Engine:
    """Open an engine on the daemon that the environment names; nothing is asked of it yet."""
    from orchestrator.engine.docker import Engine  # docker-py takes 0.2 s to import

    return Engine(endpoint or find_endpoint(), timeout=settings.engine_timeout, host=settings.host)
