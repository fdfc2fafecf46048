"""What was collected, how each test ended, and what that comes to.

Every collected test ends with an outcome: what did not run is counted as such, never as passed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence


_SHOWN: Final = 3


class Outcome(StrEnum):
    """How a test ended, the worst first. Each time it ends, it is in exactly one of these."""

    NOT_RUN = "not run"
    ERROR = "error"
    FAILURE = "failure"
    UNEXPECTED_SUCCESS = "unexpected success"
    SKIPPED = "skipped"
    EXPECTED_FAILURE = "expected failure"
    OK = "ok"


class Status(IntEnum):
    """How a run ended: its exit status."""

    OK = 0
    FAILED = 1
    NOT_COLLECTED = 3
    NOTHING_RAN = 5
    INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Test:
    """A collected test."""

    id: str
    owner: str  # its class, as module.Class: what reports and durations are kept by
    title: str  # str(test), and its docstring's first line below it where there is one

    @property
    def name(self) -> str:
        """Its title without the docstring."""
        return self.title.partition("\n")[0]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What one worker runs in one piece: a class, a module with module fixtures, or a suite."""

    key: str  # module.Class, or the module
    tests: tuple[Test, ...]
    files: dict[str, str] = field(default_factory=dict)  # of each class, relative if possible
    services: dict[str, tuple[int, ...]] = field(default_factory=dict)  # memory, by class
    ahead: bool = False  # whether its services can be started before its turn comes


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One failure, error or unexpected success as the report shows it."""

    outcome: Outcome = Outcome.ERROR
    title: str  # what failed, in unittest's words; a subtest has its own
    kind: str  # the exception's class
    message: str  # what it says, cut where that is very long
    text: str = ""  # the traceback, if there is one

    @property
    def details(self) -> str:
        """All that there is to say."""
        return self.text or f"{self.message}\n"


@dataclass(frozen=True, kw_only=True)
class Record:
    """How one test ended."""

    test: Test
    outcome: Outcome
    problems: tuple[Problem, ...] = ()
    reason: str = ""  # why it was skipped or did not run
    seconds: float = 0.0  # wall time, with its own set-up and tear-down
    skips: int = 0  # how often it was skipped: each subtest may be
    earlier: tuple[Problem, ...] = ()  # what failed before it was run again

    @property
    def flaky(self) -> bool:
        """Whether it failed first, and passed when it was run again."""
        return bool(self.earlier) and not self.failed

    @property
    def failed(self) -> bool:
        """Whether it failed, or did not run."""
        return bool(self.problems) or self.outcome is Outcome.NOT_RUN


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
    """What is known so far of one unit."""

    unit: Unit
    order: Sequence[int]  # the places in unit.tests, in the order they are to run
    records: dict[int, list[Record]] = field(default_factory=dict)  # by place: one for each end
    over: set[int] = field(default_factory=set)  # the places that bring nothing more
    fixtures: list[tuple[str, Problem]] = field(default_factory=list)  # with the class
    seconds: Counter[str] = field(default_factory=Counter)  # wall time of each class
    outputs: dict[str, Output] = field(default_factory=dict)  # by class; a module's by the key
    facts: dict[str, dict[str, str]] = field(default_factory=dict)  # of each class's services
    crashes: int = 0  # how often it was cut short
    fixture_crashes: int = 0  # how often by a fixture
    retries: int = 0  # how often what failed may still run again
    earlier: dict[int, tuple[Problem, ...]] = field(default_factory=dict)  # of it, until it has

    @property
    def open(self) -> list[int]:
        """The ordinals of the tests that are not over, in order."""
        return [ordinal for ordinal in self.order if ordinal not in self.over]

    def record(
        self, ordinal: int, records: Sequence[Record], *, over: bool = True
    ) -> Sequence[Record]:
        """Add what a test brought, and return it; nothing when it was over already."""
        if ordinal in self.over or not 0 <= ordinal < len(self.unit.tests):
            return ()
        if over:
            self.over.add(ordinal)
        if earlier := self.earlier.pop(ordinal, ()):
            records = [
                replace(it, earlier=tuple(p for p in earlier if p.title.startswith(it.test.name)))
                for it in records
            ]
            rest = tuple(p for p in earlier if not any(p in it.earlier for it in records))
            if not over:
                self.earlier[ordinal] = rest
            elif records:  # of a fixture, or of a test that has another name now
                records[0] = replace(records[0], earlier=(*records[0].earlier, *rest))
        self.records.setdefault(ordinal, []).extend(records)
        return records

    def passed(self, ordinal: int, seconds: float) -> Sequence[Record]:
        """Add that a test has passed."""
        record = Record(test=self.unit.tests[ordinal], outcome=Outcome.OK, seconds=seconds)
        return self.record(ordinal, (record,))

    def not_run(self, reason: str, *, only: int | None = None, owner: str = "") -> list[Record]:
        """Record, and return, that the tests without an outcome have none.

        Or one of them, or those of one class. One that was to run again failed.
        """
        added: list[Record] = []
        for ordinal in self.open:
            test = self.unit.tests[ordinal]
            if only in (None, ordinal) and owner in ("", test.owner):
                problems = self.earlier.pop(ordinal, ())
                outcome = problems[0].outcome if problems else Outcome.NOT_RUN
                record = Record(test=test, outcome=outcome, problems=problems, reason=reason)
                added += self.record(ordinal, (record,))
        return added

    def failed(self) -> dict[int, tuple[Problem, ...]]:
        """What failed or did not run, by ordinal; for a fixture, every test of its class."""
        owners = {test.owner for test in self.unit.tests} if self.fixtures else set()
        found = {}
        for ordinal in self.order:
            records, own = self.records.get(ordinal, ()), self.unit.tests[ordinal].owner
            problems = [problem for record in records for problem in record.problems]
            problems += [it for owner, it in self.fixtures if owner == own or owner not in owners]
            if problems or any(record.failed for record in records):
                found[ordinal] = tuple(problems)
        return found

    def reopen(self) -> int:
        """Let what failed run again, if it still may; returns how many tests that are."""
        if self.open or not self.retries or not (failed := self.failed()):
            return 0
        self.retries -= 1
        for ordinal, problems in failed.items():
            before = [it for record in self.records.pop(ordinal, ()) for it in record.earlier]
            self.earlier[ordinal] = (*before, *problems)
            self.over.discard(ordinal)
        self.fixtures.clear()
        self.crashes = self.fixture_crashes = 0
        return len(failed)

    def __iter__(self) -> Iterator[Record]:
        """Every record, in collected order."""
        for _, records in sorted(self.records.items()):
            yield from records


@dataclass(kw_only=True)
class Results:
    """What a run leaves for the reports."""

    units: list[UnitResult] = field(default_factory=list)  # as collected; none until then
    started: float = 0.0  # seconds since the epoch
    seconds: float = 0.0  # wall time
    status: Status = Status.OK

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
        """The wall time of each class, of the units that ran whole, and once."""
        seconds: dict[str, float] = {}
        for unit in self.units:
            whole = len(unit.order) == len(unit.unit.tests) and not unit.crashes
            if whole and not any(it.earlier or it.outcome is Outcome.NOT_RUN for it in unit):
                seconds |= unit.seconds
        return seconds

    def ids(self, *, stopped: bool) -> tuple[set[str], set[str]]:
        """The ids of what passed, and of what failed.

        What did not run is of the latter, unless the run was stopped: then it only had no time to.
        """
        passed: set[str] = set()
        failed: set[str] = set()
        for unit in self.units:
            found = unit.failed()
            for ordinal in found.keys() | unit.records.keys():
                id_ = unit.unit.tests[ordinal].id
                if ordinal not in found:
                    passed.add(id_)
                elif found[ordinal] or not stopped:
                    failed.add(id_)
        return passed - failed, failed

    @property
    def share_servers(self) -> bool:
        """Whether there are servers that take no memory of a class's: those of the run."""
        return any(0 in it for unit in self.units for it in unit.unit.services.values())

    @property
    def successful(self) -> bool:
        """Whether nothing failed and nothing was left out."""
        fixtures = any(unit.fixtures for unit in self.units)
        return not fixtures and not any(record.failed for record in self.records())


def some(ids: Collection[str]) -> str:
    """The first of some tests, and how many more there are."""
    shown = ", ".join(sorted(ids)[:_SHOWN]) or "none"
    return f"{shown} and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else shown
