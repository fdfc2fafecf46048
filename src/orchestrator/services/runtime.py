"""The container behind a handle, as the engine knows it; and whether the server in it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from orchestrator.errors import ServiceNotReadyError
from orchestrator.probes.checks import ATTEMPT, Target
from orchestrator.probes.waiting import exited, wait_until_ready

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from orchestrator.engine.docker import Engine
    from orchestrator.probes import Probe

FROZEN: Final = "it answers nobody. Was it frozen (SIGSTOP, docker pause), and not thawed?"


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
        helper: Runs another container in its network namespace while a block runs, as
            `StartContext.helper_container` does.
        container_id: Known once the container exists; a handle is there before.
        restarts: How often `restart` has ended every connection to it.
    """

    alias: str
    engine: Engine
    container: str
    networks: Sequence[str]
    ports: Mapping[str, int]
    password: str
    helper: Callable[..., AbstractContextManager[str]]
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


def await_ready(service: Handle, *, cancelled: Callable[[], bool] = lambda: False) -> None:
    """Return when the service is ready.

    Args:
        service: A service that was started.
        cancelled: Says when nobody waits any more; then this returns early.

    Raises:
        ServiceExitedError: It ended.
        ServiceNotReadyError: It was not ready within its ``startup_timeout``.
    """
    probe = service.readiness()
    if probe is not None:
        wait_until_ready(probe, service, timeout=service.startup_timeout, cancelled=cancelled)
        return
    state = service.state()
    if state is None or (state.ended and state.exit_code != 0):
        raise exited(service, state)


def answers(service: Handle, *, patience: float = ATTEMPT) -> bool:
    """Whether the server answers anybody; a frozen one accepts connections at most.

    Args:
        service: A service that was ready before.
        patience: Seconds it has.

    Raises:
        ServiceExitedError: It has ended.
    """
    try:
        await_ready(service.copy_with(startup_timeout=patience))
    except ServiceNotReadyError:
        return False
    return True
