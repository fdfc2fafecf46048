"""Ending a run early: no further test starts, and those that run finish, or are made to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from orchestrator.runner.member import State

if TYPE_CHECKING:
    from orchestrator.runner.crew import Crew
    from orchestrator.runner.dispatch import Dispatcher
    from orchestrator.runner.interrupts import Interrupts
    from orchestrator.runner.patience import Patience
    from orchestrator.runner.reports.text import Text

_SECOND: Final = 2


class Shutdown:
    """Why and how a run ends before its time.

    Attributes:
        reason: Why no further test starts; empty as long as they do.
        interrupted: Whether Ctrl-C or a signal asked for it, or a test raised KeyboardInterrupt.
        trouble: Why the tests could not be collected, or empty.
    """

    def __init__(
        self, crew: Crew, dispatcher: Dispatcher, *, text: Text, patience: Patience
    ) -> None:
        self.reason = ""
        self.interrupted = False
        self.trouble = ""
        self._asked = 0
        self._kill_at: float | None = None
        self._crew = crew
        self._dispatcher = dispatcher
        self._text = text
        self._patience = patience

    def heed(self, interrupts: Interrupts) -> None:
        """First: finish and tear down. Second: interrupt and tear down. Third: kill.

        SIGTERM and SIGHUP leave little time for each, and none after that.
        """
        if interrupts.urgent and self._kill_at is None:
            self._patience = self._patience.urgent()
            self._kill_at = time.monotonic() + self._patience.finish + self._patience.teardown
        if interrupts.count > self._asked:
            self._ask(interrupts.count)
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            for member in self._crew.members:
                member.kill()

    def _ask(self, count: int) -> None:
        self._asked = count
        running = len(self._crew.running())
        self._interrupt()
        for member in self._crew.members:
            if count == _SECOND:
                member.interrupt(self._patience)
            elif count > _SECOND:
                member.kill()
        if count == 1:
            self._text.note(
                f"Interrupted: {running} running test{'s'[: running != 1]} may finish "
                f"({self._patience.finish:g} s); Ctrl-C again interrupts them, a third one kills"
            )
        elif count == _SECOND:
            self._text.note("Interrupted again: running tests are interrupted and torn down")

    def interrupted_by_test(self) -> None:
        """A KeyboardInterrupt of a test that nothing caught ends the run, as under unittest."""
        if not self.interrupted:
            self._interrupt()
            self._text.note("Interrupted by a test: no other test starts")

    def _interrupt(self) -> None:
        self.interrupted = True
        self._begin("interrupted", patience=self._patience)

    def fail_fast(self) -> None:
        """A test has failed, and ``-f`` was given: running tests take the time they need."""
        if not self.reason:
            self._begin("-f stopped the run", patience=None)

    def give_up(self, trouble: str) -> None:
        """No worker lives long enough to run anything."""
        self.trouble = trouble
        self._begin("no worker could be started", patience=None)

    def _begin(self, reason: str, *, patience: Patience | None) -> None:
        """Start no further test; with patience, do not wait for the running ones for ever."""
        self.reason = self.reason or reason
        self._dispatcher.cancel()
        for member in self._crew.members:
            if member.state is State.RUNNING:
                member.stop(patience)
            elif member.state is State.COLLECTING:
                member.interrupt(self._patience)
