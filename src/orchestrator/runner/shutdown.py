"""Ending a run early: no further test starts, and those that run finish, or are made to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrator.runner.member import State

if TYPE_CHECKING:
    from orchestrator.runner.crew import Crew
    from orchestrator.runner.dispatch import Dispatcher
    from orchestrator.runner.patience import Patience
    from orchestrator.runner.reports.text import Text

_SECOND: Final = 2


class Shutdown:
    """Why and how a run ends before its time.

    Attributes:
        reason: Why no further test starts; empty as long as they do.
        asked: How often somebody asked to stop, by Ctrl-C or a signal.
        trouble: Why the tests could not be collected, or empty.
    """

    def __init__(
        self, crew: Crew, dispatcher: Dispatcher, *, text: Text, patience: Patience
    ) -> None:
        self.reason = ""
        self.asked = 0
        self.trouble = ""
        self._crew = crew
        self._dispatcher = dispatcher
        self._text = text
        self._patience = patience

    def heed(self, count: int) -> None:
        """First: finish and tear down. Second: interrupt and tear down. Third: kill.

        Args:
            count: How many interrupts there have been.
        """
        if count <= self.asked:
            return
        self.asked = count
        running = len(self._crew.running())
        self._begin("interrupted", patience=self._patience)
        for member in self._crew.members:
            if count == _SECOND:
                member.interrupt(self._patience)
            elif count > _SECOND:
                member.kill()
        if count == 1:
            self._text.note(
                f"Interrupted: {running} running test{'s'[: running != 1]} may finish; "
                "Ctrl-C again interrupts them, a third one kills"
            )
        elif count == _SECOND:
            self._text.note("Interrupted again: running tests are interrupted and torn down")

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
