"""What the note of a failed test says about its services."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from orchestrator.errors import EngineError, OrchestratorError, ServiceError, indented, printable
from orchestrator.services.hooks import address
from orchestrator.services.options import masked
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestrator.services.service import Service

_INFO_TIMEOUT: Final = 5.0  # seconds
_LOOKED_AT: Final = 20  # times as many lines as are shown


class Diagnosis:
    """Makes the notes of one test; each line of a log is in one of them only."""

    def __init__(self) -> None:
        self._since = datetime.now(UTC)
        self._silent = False
        self._told: dict[str, tuple[str, str]] = {}  # of each service: its log, its problem

    def of(self, handles: Iterable[Service]) -> str:
        """A line for each service, with what it logged since the test began, or the last note.

        After the first note, only services that have something new; empty when none has, when the
        daemon has been silent once, and with ``ORCHESTRATOR_LOG_LINES=0``.
        """
        most = Settings.from_environment().log_lines
        parts = [self._part(it, most=most) for it in handles] if most else []
        return "\n".join(filter(None, parts))

    def _part(self, handle: Service, *, most: int) -> str:
        if self._silent:
            return ""
        try:
            # more than are shown: some may be no news
            text = handle.logs(tail=most * _LOOKED_AT, since=self._since)
        except OrchestratorError as error:
            text = str(error)
            self._silent = isinstance(error, EngineError) and error.status is None
        if self._silent:
            return f"{handle.alias}: the Docker daemon does not answer\n{indented(text)}"
        told, problem = self._told.get(handle.alias, ("", None)), _container_problem(handle)
        self._told[handle.alias] = text, problem
        # not by time: the daemon's mark on a line may be later than the line
        new = text.removeprefix(told[0]).rstrip().split("\n")
        lines = [line for line in new if line and handle.is_news(line)][-most:]
        if not lines and told[1] == problem:
            return ""
        about = f"{handle.alias}{problem}: {_asked(handle, _what_and_where)}"
        return "\n".join([about, *([indented("\n".join(lines))] if lines else [])])


def summary(handle: Service) -> str:
    """A service's `info` in one line, secrets masked; or why it does not answer.

    A frozen server never answers, and drivers wait for ever: here a thread does, which ends with
    the server.
    """
    return _asked(handle, _info)


def _asked(handle: Service, ask: Callable[[Service], str]) -> str:
    answer: list[str] = []

    def run() -> None:
        try:
            answer.append(ask(handle))
        except ServiceError as error:  # its log lines follow anyway
            answer.append(f"no answer: {str(error).partition(chr(10))[0]}")
        except Exception as error:  # noqa: BLE001 - it must not hide the test's own failure
            answer.append(f"no answer: {type(error).__name__}: {error}")

    asking = threading.Thread(target=run, name=f"orchestrator-ask-{handle.alias}", daemon=True)
    asking.start()
    asking.join(_INFO_TIMEOUT)
    text = answer[0] if answer else f"no answer within {_INFO_TIMEOUT:g} s"
    return printable(masked(text, handle.secrets()))


def _info(handle: Service) -> str:
    return ", ".join(f"{name}={value}" for name, value in handle.info().items())


def _what_and_where(handle: Service) -> str:
    """Such as ``PostgreSQL 15.8 at 127.0.0.1:40123``; without a version, the image."""
    what = str(handle.server_info().get("server") or str(handle.image).partition("@")[0])
    what = re.split(r" on | \(", what)[0]  # neither the platform nor the build
    ports = [address(handle.host, port) for port in handle.running.ports.values()]
    return f"{what} at {', '.join(ports)}" if ports else what


def _container_problem(handle: Service) -> str:
    """How the container ended, or lost a process."""
    try:
        state = handle.state()
    except OrchestratorError:
        return ""  # the daemon is away; the rest says so
    if state is None:
        return " is gone: its container was removed"
    if state.ended:
        return f" {handle.running.engine.ending(state)}" if state.exit_code else ""
    if handle.memory is not None and handle.running.engine.oom_kills(handle.running.container):
        return " has lost a process for lack of memory (OOM)"
    return ""
