"""The worker's test result: what unittest puts into it, reported to the parent as records."""

from __future__ import annotations

import unittest
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from orchestrator.runner import unpatched
from orchestrator.runner.collect import described, id_of, is_suite, name_of, owner_of, title_of
from orchestrator.runner.messages import Began, Ended, FixtureFailed
from orchestrator.runner.results import Outcome, Problem, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Protocol, TextIO, TypeAlias

    from orchestrator.runner.channel import WorkerScores
    from orchestrator.runner.collect import PlainSuites
    from orchestrator.runner.messages import Message, Written
    from orchestrator.runner.options import Options
    from orchestrator.runner.results import Test

    class RunsUnits(Protocol):
        """The worker, as suites and results know it."""

        options: Options
        scores: WorkerScores
        suites: PlainSuites
        streams: tuple[TextIO, TextIO]

        @property
        def asked_to_end(self) -> bool:
            """Whether the parent has interrupted it."""

        def between_tests(self) -> None:
            """Look whether the parent has something to say."""

        def report(self, message: Message, /) -> None:
            """Send from within a test."""

        def written(self) -> Written:
            """How much it has written to its output so far."""

    ExcInfo: TypeAlias = (
        tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
    )

__unittest = True  # unittest leaves the frames of such modules out of tracebacks

_LONGEST_TEXT: Final = 1 << 20
_LONGEST_MESSAGE: Final = 2000
_LISTS: Final = {
    Outcome.ERROR: "errors",
    Outcome.FAILURE: "failures",
    Outcome.UNEXPECTED_SUCCESS: "unexpectedSuccesses",
    Outcome.SKIPPED: "skipped",
    Outcome.EXPECTED_FAILURE: "expectedFailures",
}
_PROBLEMS: Final = (Outcome.ERROR, Outcome.FAILURE, Outcome.UNEXPECTED_SUCCESS)
_WORST_FIRST: Final = list(Outcome)
_ErrorHolder: Any = unittest.suite._ErrorHolder  # type: ignore[attr-defined]  # a name, as of a fixture


class _Trace(str):
    """A formatted traceback that knows what was raised."""

    __slots__ = ("kind", "message")
    kind: str
    message: str


@dataclass(kw_only=True)
class _Execution:
    """One run of a test, from ``startTest`` to ``stopTest``."""

    test: Any
    started: float = 0.0
    seconds: float = 0.0
    passed: bool = False
    entries: list[tuple[Outcome, Any]] = field(default_factory=list)

    def record(self, stands: Callable[[Outcome, Any], bool]) -> Record:
        """How it ended: by the worst of its entries that are still in the lists."""
        entries = [entry for entry in self.entries if stands(*entry)]
        outcomes = [outcome for outcome, _ in entries]
        outcome = min(outcomes, key=_WORST_FIRST.index, default=Outcome.OK)
        reasons = [_parts(entry)[1] for outcome, entry in entries if outcome is Outcome.SKIPPED]
        return Record(
            test=described(self.test),
            outcome=outcome,
            problems=tuple(_problem(*entry) for entry in entries if entry[0] in _PROBLEMS),
            reason=next(filter(None, reasons), "") if outcome is Outcome.SKIPPED else "",
            skips=len(reasons),
            seconds=self.seconds,
        )


class Result(unittest.TestResult):
    """What counts is what stands in its lists (``failures`` …), as in a whole run of unittest.

    Whatever a test or a fixture puts there, through a method or by hand, is its own; what a test
    that retries itself takes out again is not. A test may end more than once, or run others: each
    end is a record of its own, and all of them belong to the collected test that runs.

    It copes with calls out of step: Python 3.12.1 does not call ``startTest`` for a skipped test
    but does call ``stopTest``; Django adds errors to tests that never start.
    """

    _orchestrator_reports = True  # to the mixin: the worker tells at its end what would not go

    def __init__(self, worker: RunsUnits, names: Mapping[int, Test]) -> None:
        super().__init__()
        options = worker.options
        self.failfast = options.failfast and not options.retries  # else the parent stops us
        self.buffer = options.buffer
        self.tb_locals = options.tb_locals
        self._original_stdout, self._original_stderr = worker.streams
        self.stopped = ""
        self.cut_short: Any = None  # the test that an interrupt ended
        self.fixture = ("", "")  # name, owner
        self._worker, self._names = worker, names
        self._report, self._scores = worker.report, worker.scores
        self._not_ready: dict[str, tuple[Outcome, str]] = {}  # owner: why its tests cannot run
        self._ordinal: int | None = None  # of the collected test that runs
        self._collected: Any = None
        self._open: list[_Execution] = []
        self._ended: list[_Execution] = []
        self._known: dict[int, Any] = {}  # the entries that have been seen, by identity
        self._looked_at: dict[str, tuple[int, Any]] = {}  # each list's length then, and its last

    def run_test(self, ordinal: int, test: Any, *, added: Callable[[], Sequence[Any]]) -> None:
        """Run a collected test, or a suite that runs its tests itself; then, what was ``added``."""
        self._ordinal, self._collected, before = ordinal, test, self.testsRun
        self._scores.running(ordinal)
        try:
            test(self)
            while more := added():
                unittest.TestSuite(more)(self)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - of a run() of its own; unittest would end here
            self.addError(test, unpatched.exc_info())
        self.see()
        if not (self._ended or self._open or is_suite(test)):
            if self.testsRun == before:
                self._leave_out(test, Outcome.NOT_RUN, "its run() passed over it")
                return
            self._ended.append(_Execution(test=test))  # it had a result of its own
        self._report_ended(over=True)

    def leave_out(self, ordinal: int, test: Any) -> None:
        """Report a test whose class or module fixture has failed, or skips it."""
        self._ordinal, reasons = ordinal, self._not_ready
        # "": a module fixture stands for every class of the unit
        reason = reasons.get(owner_of(test)) or reasons.get("")
        self._leave_out(test, *(reason or (Outcome.NOT_RUN, "its fixture failed")))

    def _leave_out(self, test: Any, outcome: Outcome, reason: str) -> None:
        skips = int(outcome is Outcome.SKIPPED)
        record = Record(test=described(test), outcome=outcome, reason=reason, skips=skips)
        self._report(Ended(ordinal=self._ordinal or 0, records=(record,), over=True))
        self._forget()

    def halt(self, why: str) -> None:
        """Run no further test."""
        self.stopped = self.stopped or why
        self.shouldStop = True

    def interrupted(self) -> None:
        """What a KeyboardInterrupt has ended is an error, unless the parent asked for it."""
        self.halt("interrupt")
        if self._ordinal is not None:
            self.see()
            unfinished = self._open or [it for it in self._ended if not (it.passed or it.entries)]
            self.cut_short = unfinished[-1].test if unfinished else self._collected
        if self._worker.asked_to_end:
            self._forget()
        elif self._ordinal is None:
            self.addError(_ErrorHolder(self.fixture[0]), unpatched.exc_info())
            self.see()
        else:
            self.addError(self.cut_short, unpatched.exc_info())
            self.see()
            self._report_ended(over=True)

    # What unittest calls

    def stop(self) -> None:
        """Run no further test: unittest calls this for ``failfast``."""
        self.halt("failfast")

    def startTest(self, test: Any) -> None:
        """Note that a test begins."""
        super().startTest(test)
        if self._ordinal is not None and test is not self._collected:
            if not self._open and is_suite(self._collected):
                self.see()
                self._report_ended(over=False)  # a suite may take long: report what is done
            self._report(Began(ordinal=self._ordinal, title=title_of(test)))
        self._open.append(_Execution(test=test, started=unpatched.now()))

    def stopTest(self, test: Any) -> None:
        """Note that it ended."""
        super().stopTest(test)
        if self._ordinal is not None:
            self.see()
        for execution in reversed(self._open):
            if execution.test is test:
                execution.seconds = unpatched.now() - execution.started
                self._open.remove(execution)
                self._ended.append(execution)
                return

    def addSuccess(self, test: Any) -> None:
        """Note a success: there is no list of them."""
        super().addSuccess(test)
        if self._ordinal is not None:
            self._execution_of(test).passed = True

    def _exc_info_to_string(self, err: ExcInfo, test: Any) -> str:
        """Format a traceback; an exception that cannot be shown is still reported."""
        kind = err[0].__qualname__ if err[0] else "Exception"
        try:
            text = _Trace(super()._exc_info_to_string(err, test))  # type: ignore[misc]
        except Exception as broken:  # noqa: BLE001 - the failure must reach the report
            problem = type(broken).__qualname__
            text = _Trace(f"{kind} (its traceback cannot be formatted: {problem})\n")
        text.kind, text.message = kind, "(the message cannot be shown)"
        with suppress(Exception):
            text.message = str(err[1])
        return text

    # What is in the lists

    def see(self) -> None:
        """Give what is new in the lists to the run of the test, or to the fixture, it is of."""
        if self._nothing_in_lists:
            return
        for outcome, entry in self._new():
            test, reason = _parts(entry)
            if self._ordinal is not None and not isinstance(test, _ErrorHolder):
                self._execution_of(test).entries.append((outcome, entry))
                continue
            name, owner = self.fixture
            if self._ordinal is not None:  # of a suite that a test, or one of its own making, runs
                name, _, place = str(test).partition(" (")
                owner = place.removesuffix(")") if name.endswith("Class") else ""
            elif outcome is Outcome.SKIPPED:
                self._not_ready.setdefault(owner, (outcome, reason))
            elif name.startswith("setUp"):
                self._not_ready.setdefault(owner, (Outcome.NOT_RUN, f"{name} failed"))
            if outcome in _PROBLEMS:
                self._report(FixtureFailed(problem=_problem(outcome, entry), owner=owner))

    @property
    def _nothing_in_lists(self) -> bool:
        """Whether all of them are empty, as in most runs."""
        return not (
            self.errors
            or self.failures
            or self.skipped
            or self.expectedFailures
            or self.unexpectedSuccesses
        )

    def _new(self) -> Iterator[tuple[Outcome, Any]]:
        for outcome, name in _LISTS.items():
            entries, start = self._tail(name)
            for entry in entries[start:]:
                if id(entry) not in self._known:
                    self._known[id(entry)] = entry
                    yield outcome, entry

    def _tail(self, name: str) -> tuple[list[Any], int]:
        """A list, and where it may have changed since the last test: thousands may be skipped."""
        entries: list[Any] = getattr(self, name)
        length, last = self._looked_at.get(name, (0, None))
        grown = 0 < length <= len(entries) and entries[length - 1] is last
        return entries, length if grown else 0

    def _stands(self, outcome: Outcome, entry: Any) -> bool:
        """Whether an entry is still in its list; the latest are at the end."""
        return any(it is entry for it in reversed(getattr(self, _LISTS[outcome])))

    def _execution_of(self, test: Any) -> _Execution:
        """The latest run of a test; of a subtest, the one that is open."""
        for execution in [*reversed(self._open), *reversed(self._ended)]:
            if execution.test is test:
                return execution
        if self._open:
            return self._open[-1]
        self._ended.append(_Execution(test=test))  # it reports without having started
        return self._ended[-1]

    def _report_ended(self, *, over: bool) -> None:
        """Report what has ended since the last time."""
        ended, self._ended = [*self._ended, *(self._open if over else ())], []
        if not (over and len(ended) == 1 and self._plainly_passed(ended[0])):
            records = tuple(execution.record(self._stands) for execution in ended)
            self._report(Ended(ordinal=self._ordinal or 0, records=records, over=over))
        if over:
            self._scores.over()
            self._forget()

    def _plainly_passed(self, execution: _Execution) -> bool:
        """Note a test that passed where nothing is new of it since it was collected; if it did."""
        ordinal = self._ordinal
        if ordinal is None or execution.entries:
            return False
        known = self._names[ordinal].id == id_of(execution.test)
        return known and self._scores.passed(ordinal, execution.seconds)

    def _forget(self) -> None:
        """Put names for the tests in the lists: they are kept alive no longer, but still count."""
        self._ordinal = self._collected = None
        self._open, self._ended = [], []
        if self._nothing_in_lists:
            self._looked_at.clear()
            return
        for name in _LISTS.values():
            entries, start = self._tail(name)
            for place, entry in enumerate(entries[start:], start):
                self._known.pop(id(entry), None)
                entries[place] = light = _light(entry)
                self._known[id(light)] = light
            self._looked_at[name] = len(entries), entries[-1] if entries else None

    # Outside of tests

    def unit_ended(self, *, left_over: Sequence[Any]) -> None:
        """Report what makes a run of unittest fail without being an outcome of a test."""
        self.stopTestRun()
        self.see()
        lists = self.failures or self.errors or self.unexpectedSuccesses
        if not self.wasSuccessful() and not lists:
            self._fail("wasSuccessful()", "a test made the result's wasSuccessful() return false")
        for test in left_over:
            self._fail(title_of(test), "it was added to a suite by a fixture, and has not run")

    def left_behind(self, errors: Mapping[str, Exception]) -> None:
        """Report what would not be removed of classes that are over, by their names."""
        for test_class, error in errors.items():
            self.fixture = f"tearDownClass ({test_class})", test_class
            self.addError(_ErrorHolder(self.fixture[0]), (type(error), error, None))  # type: ignore[arg-type]  # it has no frames
            self.see()

    def _fail(self, title: str, message: str) -> None:
        problem = Problem(title=title, kind="Unsuccessful", message=message)
        self._report(FixtureFailed(problem=problem, owner=self.fixture[1]))


def _parts(entry: Any) -> tuple[Any, str]:
    """The test and the text of an entry; whoever puts in something else has no text."""
    if isinstance(entry, tuple) and entry:
        text = entry[-1]
        return entry[0], text if isinstance(text, _Trace) else str(text)
    return entry, ""


def _light(entry: Any) -> Any:
    """An entry with a name for its test."""
    test, *rest = entry if isinstance(entry, tuple) else (entry,)
    if isinstance(test, _ErrorHolder):
        return entry
    name = _ErrorHolder(name_of(test))
    return (name, *rest) if rest else name


def _problem(outcome: Outcome, entry: Any) -> Problem:
    test, text = _parts(entry)
    if outcome is Outcome.UNEXPECTED_SUCCESS:
        kind = "UnexpectedSuccess"
        message = "the test is marked as an expected failure and passed"
    elif isinstance(text, _Trace):
        kind, message = text.kind, text.message
    else:
        kind, _, message = text.rstrip().rpartition("\n")[2].partition(": ")
    return Problem(
        outcome=outcome,
        title=title_of(test),
        kind=kind,
        message=_cut(message, _LONGEST_MESSAGE),
        text=_cut(text, _LONGEST_TEXT),
    )


def _cut(text: str, longest: int) -> str:
    """A text without the middle of it, where it is too long."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n… {len(text) - longest} characters left out …\n{text[-half:]}"
