"""The Docker daemon: the only package that imports docker-py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.engine.endpoint import Endpoint, find_endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.engine.docker import Engine
    from orchestrator.settings import Settings

__all__ = ["Endpoint", "connect", "find_endpoint"]


def connect(
    settings: Settings, *, endpoint: Endpoint | None = None, about: Mapping[str, Any] | None = None
) -> Engine:
    """Open an engine on the daemon that the environment names; nothing is asked of it yet.

    `about` is its version, where it has told that already.
    """
    from orchestrator.engine.docker import Engine  # docker-py takes 0.2 s to import

    endpoint = endpoint or find_endpoint()
    return Engine(endpoint, timeout=settings.engine_timeout, host=settings.host, about=about or {})
