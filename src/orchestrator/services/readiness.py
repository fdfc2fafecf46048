"""Whether a service answers: awaited after each start, and asked when it is silent for long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrator.errors import ServiceNotReadyError
from orchestrator.probes.ending import exited
from orchestrator.probes.target import ATTEMPT
from orchestrator.probes.waiting import wait_until_ready

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.services.runtime import Handle

FROZEN: Final = "it answers nobody. Was it frozen (SIGSTOP, docker pause), and not thawed?"


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
