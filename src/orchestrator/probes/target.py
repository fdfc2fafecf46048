"""What a probe is, and what it may see of a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from orchestrator.engine.api import ContainerState, ExecResult

ATTEMPT: Final = 0.5
"""Seconds that one connection or answer may take."""


class NotReadyError(Exception):
    """A probe's way to say "not yet"; it ends as the cause of `ServiceNotReadyError`."""


class Target(Protocol):
    """What a probe may see of a service."""

    @property
    def alias(self) -> str:
        """The service's name in its class."""

    @property
    def host(self) -> str:
        """Where its ports are published."""

    @property
    def port(self) -> int:
        """Its main port, as published."""

    def port_of(self, container_port: int) -> int:
        """Where a container port is published."""

    def logs(self, tail: int | None = None) -> str:
        """What the container wrote."""

    def exec(self, argv: Sequence[str]) -> ExecResult:
        """Run a command in the container."""

    def state(self) -> ContainerState | None:
        """The container now."""

    def why_ended(self) -> str:
        """What the log of an ended server tells of the reason; empty if nothing."""


class Probe(Protocol):
    """Tells whether a service is ready."""

    def check(self, target: Target) -> None:
        """Return when the service is ready; raise anything when it is not yet."""


def is_probe(value: object) -> bool:
    """Whether a value can be tried; the class of a probe cannot, ``Tcp`` for ``Tcp()``."""
    return not isinstance(value, type) and callable(getattr(value, "check", None))


def connect(target: Target, *, port: int | None = None) -> socket.socket:
    """Open a connection to a published port; reads and writes are bounded."""
    import socket  # not at import: a test module that only declares loads little

    published = target.port if port is None else target.port_of(port)
    try:
        return socket.create_connection((target.host, published), timeout=ATTEMPT)
    except OSError as error:
        raise NotReadyError(
            f"port {published} of {target.host} cannot be reached ({error}); if that is not where "
            "the daemon's ports are, ORCHESTRATOR_HOST=… says where"
        ) from error
