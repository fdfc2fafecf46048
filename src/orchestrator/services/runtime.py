"""The container behind a handle, as the engine knows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from orchestrator.probes.target import Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from orchestrator.engine.docker import Engine
    from orchestrator.probes import Probe


class Helper(Protocol):
    """Runs a container in the network namespace of another while a block runs."""

    def __call__(
        self,
        beside: str,
        /,
        *,
        entry: str,
        command: Sequence[str],
        files: Mapping[str, bytes],
        capabilities: Sequence[str],
        devices: Sequence[str],
    ) -> AbstractContextManager[str]:
        """Its name."""


def host_names(alias: str) -> list[str]:
    """What a service is called on its networks: its alias, and that without underscores.

    RFC 1123 has no underscore in host names. Most programs do not care; Java's TLS, browsers and
    frameworks that check the ``Host`` header do, and can use the name with hyphens instead.
    """
    hyphenated = alias.strip("_").replace("_", "-")
    return [alias] if hyphenated in alias else [alias, hyphenated]


def address(host: str, port: int) -> str:
    """Host and port as URLs have them: an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(kw_only=True)
class Runtime:
    """The container behind a handle.

    Attributes:
        container: Its name.
        networks: The names of the networks it stands on.
        ports: Container port such as ``"5432/tcp"`` to the host port.
        password: A random password of this server's own, for servers that want one.
        helper: Runs another container in its network namespace.
        container_id: Known once the container exists; a handle is there before.
        restarts: How often `restart` has ended every connection to it.
    """

    alias: str
    engine: Engine
    container: str
    networks: Sequence[str]
    ports: Mapping[str, int]
    password: str
    helper: Helper
    container_id: str = ""
    restarts: int = 0


class Handle(Target, Protocol):
    """What faults, and whoever waits for an answer, need of a running service."""

    @property
    def running(self) -> Runtime:
        """Its container."""

    @property
    def startup_timeout(self) -> float:
        """Seconds it has to become ready."""

    def readiness(self) -> Probe | None:
        """What tells that it is ready."""

    def started(self) -> None:
        """What it needs after each start."""

    def copy_with(self, **changes: Any) -> Self:
        """The same with other attributes."""
