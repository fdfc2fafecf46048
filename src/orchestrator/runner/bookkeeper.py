"""Entering what happened into the books, and showing it: every entry of a run is made here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.runner.outcome import Outcome
from orchestrator.runner.output import Output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestrator.runner.ledger import Account
    from orchestrator.runner.member import Member
    from orchestrator.runner.messages import Ended
    from orchestrator.runner.outcome import Problem, Record
    from orchestrator.runner.output import Written
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
        """Enter what a test brought."""
        self._show(account.enter(ended))

    def test_cut_short(
        self, account: Account, ordinal: int, problem: Problem, *, seconds: float
    ) -> None:
        """Enter that a test ended with its worker."""
        entered = account.enter_one(ordinal, Outcome.ERROR, problems=(problem,), seconds=seconds)
        self._show(entered)

    def fixture_failed(self, account: Account, owner: str, problem: Problem) -> None:
        """Enter what failed outside of any test of a class."""
        account.fixtures.append((owner, problem))
        self._text.fixture_failed(problem)
        self._failed()

    def not_run(self, account: Account, reason: str, *, only: int | None = None) -> None:
        """Enter that the tests without an outcome, or one of them, will have none."""
        for ordinal in account.open:
            if only is None or ordinal == only:
                self._show(account.enter_one(ordinal, Outcome.NOT_RUN, reason=reason))

    def output(self, member: Member, account: Account, *, until: Written) -> None:
        """Enter what a class has printed since the last time, up to some moment."""
        files = member.process.output
        if output := files.read(member.shown, until):
            owner = member.owner or account.unit.key
            account.outputs[owner] = account.outputs.get(owner, Output()) + output
            self._text.output(owner, output.err, stdout=files.stdout(member.shown, until))
        member.shown = until

    def unit_left(self, member: Member, account: Account) -> None:
        """Enter the rest of a unit's output: its member is done with it, for better or worse."""
        self.output(member, account, until=member.process.output.written())
        member.release()

    def _show(self, records: Iterable[Record]) -> None:
        for record in records:
            self._text.ended(record)
            if record.problems:
                self._failed()
