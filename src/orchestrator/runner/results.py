"""What was collected, how each test ended, and what that comes to.

Every collected test ends with an outcome: what did not run is counted as such, never as passed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Outcome(StrEnum):
    """How a test ended. Each time it ends, it is in exactly one of these."""

    OK = "ok"
    FAILURE = "failure"
    ERROR = "error"
    SKIPPED = "skipped"
    EXPECTED_FAILURE = "expected failure"
    UNEXPECTED_SUCCESS = "unexpected success"
    NOT_RUN = "not run"


class Status(IntEnum):
    """How a run ended: its exit status."""

    OK = 0
    FAILED = 1
    NOT_COLLECTED = 3
    NOTHING_RAN = 5
    INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Test:
    """A collected test.

    Attributes:
        owner: Its class, as ``module.Class``: what reports and durations are kept by.
        title: ``str(test)``, and its docstring's first line below it where there is one.
    """

    id: str
    owner: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What one worker runs in one piece: a class, a module with module fixtures, or a suite.

    Attributes:
        key: ``module.Class`` or ``module``.
        files: The source file of each class, relative to the working directory where possible.
        services: The bytes of memory that each service of each class may use.
    """

    key: str
    tests: tuple[Test, ...]
    files: dict[str, str] = field(default_factory=dict)
    services: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One failure or error as the report shows it.

    Attributes:
        outcome: ``FAILURE``, ``ERROR`` or ``UNEXPECTED_SUCCESS``.
        title: What failed, in unittest's words; a subtest has its own.
        kind: The exception's class name.
        message: The exception's message, cut to its first lines.
        text: The formatted traceback.
    """

    outcome: Outcome
    title: str
    kind: str
    message: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """How one test ended.

    Attributes:
        reason: Why it was skipped or did not run.
        seconds: Its wall time with its own set-up and tear-down.
        skips: How often it was skipped: each subtest may be.
    """

    test: Test
    outcome: Outcome
    problems: tuple[Problem, ...] = ()
    reason: str = ""
    seconds: float = 0.0
    skips: int = 0


@dataclass(frozen=True, kw_only=True)
class Output:
    """A piece of what a worker wrote, by stream."""

    out: str = ""
    err: str = ""

    def __bool__(self) -> bool:
        return bool(self.out or self.err)

    def __add__(self, other: Output) -> Output:
        return Output(out=self.out + other.out, err=self.err + other.err)

    def __str__(self) -> str:
        """Both, one after the other: which line came before which is not known."""
        between = "\n" if self.out and self.err and not self.out.endswith("\n") else ""
        return f"{self.out}{between}{self.err}"


@dataclass(kw_only=True)
class UnitResult:
    """What is known so far of one unit.

    Attributes:
        order: The ordinals (places in ``unit.tests``) in the order they are to run.
        records: What each test brought so far, by ordinal: one for each time that it, or another
            test that it ran, ended.
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

    def record(
        self, ordinal: int, records: Sequence[Record], *, over: bool = True
    ) -> Sequence[Record]:
        """Add what a test brought; nothing when it was over already (the first end counts).

        Returns:
            What was added.
        """
        if ordinal in self.over or not 0 <= ordinal < len(self.unit.tests):
            return ()
        if over:
            self.over.add(ordinal)
        self.records.setdefault(ordinal, []).extend(records)
        return records

    def not_run(self, reason: str, *, only: int | None = None) -> list[Record]:
        """Record that the tests without an outcome, or one of them, will have none.

        Returns:
            What was added.
        """
        added: list[Record] = []
        for ordinal in self.open:
            if only is None or ordinal == only:
                test = self.unit.tests[ordinal]
                record = Record(test=test, outcome=Outcome.NOT_RUN, reason=reason)
                added += self.record(ordinal, (record,))
        return added

    def __iter__(self) -> Iterator[Record]:
        """Every record, in collected order."""
        for _, records in sorted(self.records.items()):
            yield from records


@dataclass(kw_only=True)
class Results:
    """What a run leaves for the reports.

    Attributes:
        units: In collected order; none until the tests are collected.
        started: Seconds since the epoch.
        seconds: The wall time.
        status: The exit status.
        trouble: Why the tests could not be collected, or empty.
    """

    units: list[UnitResult] = field(default_factory=list)
    started: float = 0.0
    seconds: float = 0.0
    status: Status = Status.OK
    trouble: str = ""

    def records(self) -> Iterator[Record]:
        """Every record, in collected order."""
        for unit in self.units:
            yield from unit

    def problems(self) -> Iterator[Problem]:
        """Every failure and error, in collected order, those of fixtures behind their class."""
        for unit in self.units:
            for record in unit:
                yield from record.problems
            for _, problem in unit.fixtures:
                yield problem

    def class_seconds(self) -> dict[str, float]:
        """The wall time of each class, of the units that ran whole."""
        seconds: dict[str, float] = {}
        for unit in self.units:
            if not unit.crashes and all(record.outcome is not Outcome.NOT_RUN for record in unit):
                seconds |= unit.seconds
        return seconds

    def tally(self) -> Counter[Outcome]:
        """How many tests ended in each outcome."""
        return Counter(record.outcome for record in self.records())

    @property
    def successful(self) -> bool:
        """Whether nothing failed and nothing was left out."""
        return not any(True for _ in self.problems()) and not self.tally()[Outcome.NOT_RUN]
