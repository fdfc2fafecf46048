"""The books: every collected test ends in exactly one outcome."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.runner.outcome import Outcome, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.runner.messages import Ended
    from orchestrator.runner.unit import Test, Unit


@dataclass(frozen=True, kw_only=True)
class Record:
    """How one test ended."""

    test: Test
    outcome: Outcome
    problems: tuple[Problem, ...] = ()
    reason: str = ""
    seconds: float = 0.0


@dataclass(kw_only=True)
class Account:
    """One unit: what is known of each of its tests.

    Attributes:
        order: The ordinals in the order they are to run.
        records: The outcome of each test that has one, by ordinal.
        fixtures: What failed outside of any test, with the class it belongs to.
        seconds: The wall time of each class.
        outputs: What each class printed; a module's fixtures print under the unit's key.
        facts: What is known of each class's services.
        crashes: How often the unit was cut short; ``fixture_crashes`` by a fixture.
    """

    unit: Unit
    order: Sequence[int]
    records: dict[int, Record] = field(default_factory=dict)
    fixtures: list[tuple[str, Problem]] = field(default_factory=list)
    seconds: Counter[str] = field(default_factory=Counter)
    outputs: dict[str, str] = field(default_factory=dict)
    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    crashes: int = 0
    fixture_crashes: int = 0

    @property
    def open(self) -> list[int]:
        """The ordinals that have no outcome yet, in order."""
        return [ordinal for ordinal in self.order if ordinal not in self.records]

    def enter(self, ended: Ended) -> Record | None:
        """Book an outcome; None when the test already has one (the first counts)."""
        if ended.ordinal in self.records or not 0 <= ended.ordinal < len(self.unit.tests):
            return None
        record = Record(
            test=self.unit.tests[ended.ordinal],
            outcome=ended.outcome,
            problems=ended.problems,
            reason=ended.reason,
            seconds=ended.seconds,
        )
        self.records[ended.ordinal] = record
        return record


class Ledger:
    """Every unit's account, in collected order."""

    def __init__(self, accounts: Sequence[Account]) -> None:
        self.accounts = list(accounts)

    def close(self, reason: str) -> None:
        """Book every test that has no outcome as not run: after this, none is missing."""
        for account in self.accounts:
            for ordinal in account.open:
                account.records[ordinal] = Record(
                    test=account.unit.tests[ordinal], outcome=Outcome.NOT_RUN, reason=reason
                )

    def records(self) -> Iterator[Record]:
        """Every record, in collected order."""
        for account in self.accounts:
            for _, record in sorted(account.records.items()):
                yield record

    def problems(self) -> Iterator[Problem]:
        """Every failure and error, in collected order, those of fixtures behind their class."""
        for account in self.accounts:
            for _, record in sorted(account.records.items()):
                yield from record.problems
            for _, problem in account.fixtures:
                yield problem

    def seconds(self) -> dict[str, float]:
        """The wall time of each class, of the units that ran whole."""
        seconds: dict[str, float] = {}
        for account in self.accounts:
            ran = all(record.outcome is not Outcome.NOT_RUN for record in account.records.values())
            if ran and not account.crashes:
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
