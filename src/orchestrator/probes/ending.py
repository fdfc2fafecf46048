"""How a container ended, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrator.errors import ServiceExitedError

if TYPE_CHECKING:
    from orchestrator.engine.api import ContainerState
    from orchestrator.probes.target import Target

LAST_LINES: Final = 30
"""Of its log, in an error."""


def exited(target: Target, state: ContainerState | None) -> ServiceExitedError:
    """The error that tells how a container ended."""
    alias = target.alias
    if state is None:
        return ServiceExitedError(
            f"{alias}: its container was removed by somebody else",
            service=alias,
            exit_code=-1,
            oom_killed=False,
        )
    return ServiceExitedError(
        f"{alias} {how_it_ended(state)}{_also(target.why_ended())}",
        service=alias,
        exit_code=state.exit_code,
        oom_killed=state.oom_killed,
        logs=target.logs(tail=LAST_LINES),
    )


def how_it_ended(state: ContainerState) -> str:
    """Why a container that has ended did so, and with which exit code."""
    reason = "was killed for lack of memory (OOM)" if state.oom_killed else "exited"
    return f"{reason} with exit code {state.exit_code}{_also(state.error)}"


def _also(error: str) -> str:
    return f": {error}" if error else ""
