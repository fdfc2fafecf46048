"""What a failed test is told about its services."""

from __future__ import annotations

import textwrap
import threading
from typing import TYPE_CHECKING, Final

from orchestrator.errors import OrchestratorError, ServiceError, printable
from orchestrator.probes.ending import how_it_ended

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from orchestrator.services.service import Service

_PATIENCE: Final = 5.0  # seconds


def diagnose(handles: Iterable[Service], *, since: datetime, lines: int) -> str:
    """Each service's `info`, and what it logged since a moment, secrets masked.

    Args:
        handles: Running services.
        since: When the test began.
        lines: How many log lines of each service at most.
    """
    return "\n".join(printable(_told(handle, since=since, lines=lines)) for handle in handles)


def about(handle: Service) -> str:
    """A service's `info` in one line, secrets masked; or why it does not answer.

    A frozen server never answers, and drivers wait for ever: the one who waits is a thread, which
    ends with the server.
    """
    told: list[str] = []
    asking = threading.Thread(
        target=lambda: told.append(_info(handle)),
        name=f"orchestrator-ask-{handle.alias}",
        daemon=True,
    )
    asking.start()
    asking.join(_PATIENCE)
    return printable(told[0]) if told else f"no answer within {_PATIENCE:g} s"


def _info(handle: Service) -> str:
    try:
        return handle.masked(", ".join(f"{name}={value}" for name, value in handle.info().items()))
    except ServiceError as error:  # its log lines are told beside
        return handle.masked(f"no answer: {str(error).partition(chr(10))[0]}")
    except Exception as error:  # noqa: BLE001 - a dead server must not hide the test's own failure
        return handle.masked(f"no answer: {type(error).__name__}: {error}")


def _told(handle: Service, *, since: datetime, lines: int) -> str:
    try:
        logs = handle.logs(tail=lines, since=since).rstrip()
    except OrchestratorError as error:
        logs = str(error)
    told = (
        textwrap.indent(printable(logs), "    ")
        if logs
        else "    (nothing logged during this test)"
    )
    return f"{handle.alias}{_misfortune(handle)}: {about(handle)}\n{told}"


def _misfortune(handle: Service) -> str:
    """What befell the container, if anything did: it often is why the test failed."""
    try:
        state = handle.state()
    except OrchestratorError:
        return ""  # the daemon is away; the rest says so
    if state is None:
        return " is gone: its container was removed"
    if state.ended:
        return f" {how_it_ended(state)}" if state.exit_code else ""
    if handle.memory is not None and handle.running.engine.oom_kills(handle.running.container):
        return " has lost a process for lack of memory (OOM)"
    return ""
