"""Entering what happened into the books, and showing it: every entry of a run is made here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.runner.messages import Ended
from orchestrator.runner.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.runner.ledger import Account
    from orchestrator.runner.member import Member
    from orchestrator.runner.outcome import Problem
    from orchestrator.runner.reports.text import Text


class Bookkeeper:
    """Keeps the accounts of the units that run.

    Args:
        text: Where entries are shown.
        failed: Called after each failure and error.
    """

    def __init__(self, text: Text, *, failed: Callable[[], None]) -> None:
        self._text = text
        self._failed = failed

    def test_ended(self, account: Account, ended: Ended) -> None:
        """Enter a test's outcome; the first one counts."""
        record = account.enter(ended)
        if record is None:
            return
        self._text.ended(record)
        if record.problems:
            self._failed()

    def fixture_failed(self, account: Account, owner: str, problem: Problem) -> None:
        """Enter what failed outside of any test of a class."""
        account.fixtures.append((owner, problem))
        self._text.fixture_failed(problem)
        self._failed()

    def not_run(self, account: Account, reason: str, *, only: int | None = None) -> None:
        """Enter that the tests without an outcome, or one of them, will have none."""
        for ordinal in account.open:
            if only is None or ordinal == only:
                ended = Ended(
                    ordinal=ordinal, outcome=Outcome.NOT_RUN, problems=(), reason=reason, seconds=0
                )
                self.test_ended(account, ended)

    def output(self, member: Member, account: Account, *, until: int) -> None:
        """Enter what a class has printed since the last time, up to an offset in bytes."""
        output = member.process.output(member.shown, until)
        member.shown = max(member.shown, until)
        if output:
            owner = member.owner or account.unit.key
            account.outputs[owner] = account.outputs.get(owner, "") + output
            self._text.output(owner, output)

    def unit_left(self, member: Member, account: Account) -> None:
        """Enter the rest of a unit's output: its member is done with it, for better or worse."""
        self.output(member, account, until=member.process.output_size())
        member.release()
