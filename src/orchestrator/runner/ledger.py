"""The books: every collected test ends, and what it brought is counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.runner.messages import Ended
from orchestrator.runner.outcome import Outcome, Problem, Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.runner.output import Output
    from orchestrator.runner.unit import Unit


@dataclass(kw_only=True)
class Account:
    """One unit: what is known of each of its tests.

    Attributes:
        order: The ordinals in the order they are to run.
        records: What each test brought so far, by ordinal. One for each time that it, or another
            test that it ran, ended: for nearly every test, one.
        over: The ordinals that bring nothing more.
        fixtures: What failed outside of any test, with the class it belongs to.
        seconds: The wall time of each class.
        outputs: What each class printed; a module's fixtures print under the unit's key.
        facts: What is known of each class's services.
        crashes: How often the unit was cut short; ``fixture_crashes`` by a fixture.
    """

    unit: Unit
    order: Sequence[int]
    records: dict[int, list[Record]] = field(default_factory=dict)
    over: set[int] = field(default_factory=set)
    fixtures: list[tuple[str, Problem]] = field(default_factory=list)
    seconds: Counter[str] = field(default_factory=Counter)
    outputs: dict[str, Output] = field(default_factory=dict)
    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    crashes: int = 0
    fixture_crashes: int = 0

    @property
    def open(self) -> list[int]:
        """The ordinals of the tests that are not over, in order."""
        return [ordinal for ordinal in self.order if ordinal not in self.over]

    def enter(self, ended: Ended) -> Sequence[Record]:
        """Book what a test brought; nothing when it was over already (the first end counts).

        Returns:
            What was booked.
        """
        if ended.ordinal in self.over or not 0 <= ended.ordinal < len(self.unit.tests):
            return ()
        if ended.over:
            self.over.add(ended.ordinal)
        self.records.setdefault(ended.ordinal, []).extend(ended.records)
        return ended.records

    def enter_one(
        self,
        ordinal: int,
        outcome: Outcome,
        *,
        problems: tuple[Problem, ...] = (),
        reason: str = "",
        seconds: float = 0.0,
    ) -> Sequence[Record]:
        """Book how a test ended that could not tell by itself, and that it is over."""
        test = self.unit.tests[ordinal]
        record = Record(
            test=test, outcome=outcome, problems=problems, reason=reason, seconds=seconds
        )
        return self.enter(Ended(ordinal=ordinal, records=(record,), over=True))


class Ledger:
    """Every unit's account, in collected order."""

    def __init__(self, accounts: Sequence[Account]) -> None:
        self.accounts = list(accounts)

    def close(self, reason: str) -> None:
        """Book every test that has no outcome as not run: after this, none is missing."""
        for account in self.accounts:
            for ordinal in account.open:
                account.enter_one(ordinal, Outcome.NOT_RUN, reason=reason)

    def records(self) -> Iterator[Record]:
        """Every record, in collected order."""
        for account in self.accounts:
            for _, records in sorted(account.records.items()):
                yield from records

    def problems(self) -> Iterator[Problem]:
        """Every failure and error, in collected order, those of fixtures behind their class."""
        for account in self.accounts:
            for _, records in sorted(account.records.items()):
                for record in records:
                    yield from record.problems
            for _, problem in account.fixtures:
                yield problem

    def seconds(self) -> dict[str, float]:
        """The wall time of each class, of the units that ran whole."""
        seconds: dict[str, float] = {}
        for account in self.accounts:
            outcomes = {r.outcome for records in account.records.values() for r in records}
            if Outcome.NOT_RUN not in outcomes and not account.crashes:
                seconds |= account.seconds
        return seconds

    def tally(self) -> Counter[Outcome]:
        """How many tests ended in each outcome."""
        return Counter(record.outcome for record in self.records())

    @property
    def collected(self) -> int:
        """How many tests there are."""
        return sum(len(account.order) for account in self.accounts)

    @property
    def successful(self) -> bool:
        """Whether nothing failed and nothing was left out."""
        return not any(True for _ in self.problems()) and not self.tally()[Outcome.NOT_RUN]
