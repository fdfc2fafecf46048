"""Real Postgres, Redis and Kafka in unittest test cases: clean per test, nothing left behind.

A name is loaded when it is first used, so that a test module pays for the services it declares.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from orchestrator import errors, probes
    from orchestrator.environment import Services
    from orchestrator.mixin import ServicesMixin
    from orchestrator.services.compose import Compose
    from orchestrator.services.container import Build, Container
    from orchestrator.services.files import File
    from orchestrator.services.kafka import Kafka
    from orchestrator.services.kafka.redpanda import Redpanda
    from orchestrator.services.postgres import Postgres
    from orchestrator.services.redis import Redis
    from orchestrator.services.service import Service

    __version__: str

if not hasattr(os, "fork"):  # nor what else most of this package stands on, such as fcntl
    from orchestrator.errors import OrchestratorError

    raise OrchestratorError(
        "orchestrator needs Linux or macOS, and this Python runs on neither. On Windows, use it in "
        "WSL 2, which is Linux, and turn on that distribution in Docker Desktop's settings "
        "(Resources, WSL integration): its daemon then answers there."
    )

__all__ = [
    "Build",
    "Compose",
    "Container",
    "File",
    "Kafka",
    "Postgres",
    "Redis",
    "Redpanda",
    "Service",
    "Services",
    "ServicesMixin",
    "errors",
    "probes",
]

_HOMES: Final = {
    "Build": "services.container",
    "File": "services.files",
    "Redpanda": "services.kafka.redpanda",
    "Services": "environment",
    "ServicesMixin": "mixin",
    "errors": "errors",
    "probes": "probes",
}


def __getattr__(name: str) -> Any:
    """Load a public name; every service's room has the service's name."""
    if name == "__version__":
        return _version()
    if name not in __all__:
        from orchestrator.errors import did_you_mean

        hint = did_you_mean(name, __all__)
        raise AttributeError(f"module 'orchestrator' has no attribute {name!r}{hint}")
    module = importlib.import_module(f"orchestrator.{_HOMES.get(name, f'services.{name.lower()}')}")
    value = module if name in ("errors", "probes") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _version() -> str:
    """The installed version; a source tree that was never installed has none."""
    from importlib import metadata  # takes longer than all else here

    try:
        return metadata.version("unittest-orchestrator")
    except metadata.PackageNotFoundError:
        return "0+not.installed"
