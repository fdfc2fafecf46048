"""What the note of a failed test says about its services."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from orchestrator.errors import EngineError, OrchestratorError, ServiceError, printable
from orchestrator.probes.waiting import how_it_ended
from orchestrator.services.secret import masked
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.services.service import Service

_INFO_TIMEOUT: Final = 5.0  # seconds


class Diagnosis:
    """Makes the notes of one test: one for each error; a silent daemon is waited for once."""

    def __init__(self) -> None:
        self._since = datetime.now(UTC)
        self._silence = ""

    def of(self, handles: Iterable[Service]) -> str:
        """Each service's `info`, and what it logged since the test began, secrets masked."""
        lines = Settings.from_environment().log_lines
        return "\n".join(printable(self._describe(handle, lines=lines)) for handle in handles)

    def _describe(self, handle: Service, *, lines: int) -> str:
        logs = f"(not asked again: {self._silence})"
        if not self._silence:
            try:
                logs = handle.logs(tail=lines, since=self._since).rstrip()
            except OrchestratorError as error:
                logs = str(error)
                if isinstance(error, EngineError) and error.status is None:
                    self._silence = logs
        if self._silence:
            return f"{handle.alias}: the Docker daemon does not answer\n    {logs}"
        text = logs.replace("\n", "\n    ") or "(nothing logged during this test)"
        return f"{handle.alias}{_container_problem(handle)}: {summary(handle)}\n    {text}"


def summary(handle: Service) -> str:
    """A service's `info` in one line, secrets masked; or why it does not answer.

    A frozen server never answers, and drivers wait for ever: here a thread does, which ends with
    the server.
    """
    answer: list[str] = []
    name = f"orchestrator-ask-{handle.alias}"
    asking = threading.Thread(target=lambda: answer.append(_info(handle)), name=name, daemon=True)
    asking.start()
    asking.join(_INFO_TIMEOUT)
    return printable(answer[0]) if answer else f"no answer within {_INFO_TIMEOUT:g} s"


def _info(handle: Service) -> str:
    try:
        text = ", ".join(f"{name}={value}" for name, value in handle.info().items())
    except ServiceError as error:  # its log lines follow anyway
        text = f"no answer: {str(error).partition(chr(10))[0]}"
    except Exception as error:  # noqa: BLE001 - a dead server must not hide the test's own failure
        text = f"no answer: {type(error).__name__}: {error}"
    return masked(text, handle.secrets())


def _container_problem(handle: Service) -> str:
    """How the container ended, or lost a process."""
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
