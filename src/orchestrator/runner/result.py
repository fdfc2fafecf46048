"""The worker's test result: it formats on the spot and reports every outcome to the parent."""

from __future__ import annotations

import unittest
from typing import TYPE_CHECKING, Any, Final, TextIO

from orchestrator.runner import unpatched
from orchestrator.runner.collect import described, is_suite, owner_of, title_of
from orchestrator.runner.entries import Execution, Note, cut, light, message_of, note_of, parts
from orchestrator.runner.messages import Began, Ended, FixtureFailed
from orchestrator.runner.results import Outcome, Problem, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import TypeAlias

    from orchestrator.runner.messages import Message, Written

    ExcInfo: TypeAlias = (
        tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
    )

__unittest = True  # unittest leaves the frames of such modules out of tracebacks

_LONGEST_TEXT: Final = 1 << 20
_LISTS: Final = {
    "errors": Outcome.ERROR,
    "failures": Outcome.FAILURE,
    "unexpectedSuccesses": Outcome.UNEXPECTED_SUCCESS,
    "skipped": Outcome.SKIPPED,
    "expectedFailures": Outcome.EXPECTED_FAILURE,
}


class Result(unittest.TestResult):
    """Turns unittest's calls into messages.

    What counts is what a whole run of unittest would count. A test may end more than once, or run
    others: each end is a record of its own, and all of them belong to the collected test that runs.
    Its outcome is the worst of what was added to it (a failing body and a failing tearDown,
    subtests). And the lists (``failures`` …) have the last word: a test that retries itself takes
    out what it added, another puts something in.

    It copes with calls out of step: Python 3.12.1 does not call ``startTest`` for a skipped test
    but does call ``stopTest``; Django adds errors to tests that never start.
    """

    def __init__(
        self,
        report: Callable[[Message], None],
        *,
        written: Callable[[], Written],
        streams: tuple[TextIO, TextIO],
    ) -> None:
        super().__init__()
        self._original_stdout, self._original_stderr = streams  # whatever a test has left there
        self.stopped = ""
        self.cut_short: Any = None  # the test that an interrupt ended
        self.fixture: tuple[str, str] = ("", "")  # name, owner
        self._failed_fixtures: dict[str, str] = {}  # owner -> why its tests cannot run
        self._skipped_fixtures: dict[str, str] = {}
        self._report = report
        self._written = written
        self._ordinal: int | None = None  # of the collected test that runs
        self._collected: Any = None
        self._open: list[Execution] = []
        self._ended: list[Execution] = []
        self._known_entries: list[Any] = []  # the entries of the lists that are known

    def run_test(self, ordinal: int, test: Any, *, added: Callable[[], Sequence[Any]]) -> None:
        """Run a collected test, or a suite that runs its tests itself.

        Args:
            ordinal: Of the test.
            test: The test.
            added: Takes what has been added to suites since: it runs, too, as part of this test.

        Raises:
            KeyboardInterrupt: It was interrupted; what it is about is in ``cut_short``.
        """
        self._ordinal, self._collected, before = ordinal, test, self.testsRun
        try:
            self._report(Began(ordinal=ordinal, title="", written=self._written()))
            test(self)
            while more := added():
                unittest.TestSuite(more)(self)
        except KeyboardInterrupt:
            unfinished = self._open or [it for it in self._ended if not it.notes]
            self.cut_short = unfinished[-1].test if unfinished else test
            raise
        except BaseException:  # noqa: BLE001 - of a run() of its own; unittest would end here
            self.addError(test, unpatched.exc_info())
        self._ended += self._open
        self._open = []
        self._take_over_foreign_entries()
        if not self._ended and not is_suite(test):
            self._ended.append(Execution(test=test))
            if self.testsRun == before:  # a test may have a result of its own, and add it to ours
                self._ended[0].reason = "its run() passed over it"
                self._ended[0].notes.append(Note(outcome=Outcome.NOT_RUN))
        self._report_ended(over=True)
        self._forget()

    def leave_out(self, ordinal: int, test: Any) -> None:
        """Report a test whose class or module fixture has failed, or skips it."""
        owner = owner_of(test)
        failed = self._first(self._failed_fixtures, owner)
        skipped = self._first(self._skipped_fixtures, owner)
        if failed is None and skipped is not None:
            outcome, reason = Outcome.SKIPPED, skipped
        else:
            outcome, reason = Outcome.NOT_RUN, failed or "its fixture failed"
        skips = int(outcome is Outcome.SKIPPED)
        record = Record(test=described(test), outcome=outcome, reason=reason, skips=skips)
        self._report(Ended(ordinal=ordinal, records=(record,), over=True))

    def _first(self, reasons: dict[str, str], owner: str) -> str | None:
        module = ""  # a module fixture stands for every class of the unit
        return reasons.get(owner, reasons.get(module))

    def halt(self, why: str) -> None:
        """Run no further test."""
        self.stopped = self.stopped or why
        self.shouldStop = True

    # What unittest calls

    def stop(self) -> None:
        """Run no further test: unittest calls this for ``failfast``."""
        self.halt("failfast")

    def startTest(self, test: Any) -> None:
        """Note that a test begins."""
        super().startTest(test)
        if self._ordinal is not None and test is not self._collected:
            if not self._open and is_suite(self._collected):
                self._take_over_foreign_entries()
                self._report_ended(over=False)  # a suite may take long: report what is done
            title = title_of(test)
            self._report(Began(ordinal=self._ordinal, title=title, written=self._written()))
        self._open.append(Execution(test=test, started=unpatched.now()))

    def stopTest(self, test: Any) -> None:
        """Note that it ended."""
        super().stopTest(test)
        for execution in reversed(self._open):
            if execution.test is test:
                execution.seconds = unpatched.now() - execution.started
                self._open.remove(execution)
                self._ended.append(execution)
                return

    def addSuccess(self, test: Any) -> None:
        """Note a success."""
        super().addSuccess(test)
        self._add(test, Note(outcome=Outcome.OK))

    def addError(self, test: Any, err: ExcInfo) -> None:
        """Note an error of a test or of a fixture."""
        super().addError(test, err)
        self._note(test, test, Outcome.ERROR, err, self.errors[-1])

    def addFailure(self, test: Any, err: ExcInfo) -> None:
        """Note a failure."""
        super().addFailure(test, err)
        self._note(test, test, Outcome.FAILURE, err, self.failures[-1])

    def addSubTest(self, test: Any, subtest: Any, err: ExcInfo | None) -> None:
        """Note a subtest that failed; one that passed is part of its test."""
        super().addSubTest(test, subtest, err)
        if err is None or err[0] is None:
            return
        if issubclass(err[0], test.failureException):
            self._note(test, subtest, Outcome.FAILURE, err, self.failures[-1])
        else:
            self._note(test, subtest, Outcome.ERROR, err, self.errors[-1])

    def addSkip(self, test: Any, reason: str) -> None:
        """Note a skip of a test, a subtest or a whole fixture."""
        super().addSkip(test, reason)
        if self._ordinal is None:
            self._skipped_fixtures[self.fixture[1]] = reason
            return
        execution = self._execution_of(test)
        execution.notes.append(Note(outcome=Outcome.SKIPPED, entry=self.skipped[-1]))
        execution.reason = execution.reason or str(reason)

    def addExpectedFailure(self, test: Any, err: ExcInfo) -> None:
        """Note a failure that was expected."""
        super().addExpectedFailure(test, err)
        entry = self.expectedFailures[-1]
        self._add(test, Note(outcome=Outcome.EXPECTED_FAILURE, entry=entry))

    def addUnexpectedSuccess(self, test: Any) -> None:
        """Note a success that should have been a failure."""
        super().addUnexpectedSuccess(test)
        self._add(test, note_of(Outcome.UNEXPECTED_SUCCESS, self.unexpectedSuccesses[-1]))

    def addDuration(self, test: Any, elapsed: float) -> None:
        """Python 3.12 and later measure too; ours covers every version."""

    # What this runner adds

    def _add(self, test: Any, note: Note) -> None:
        """Note an outcome of a test; what a fixture says is in the lists."""
        if self._ordinal is not None:
            self._execution_of(test).notes.append(note)

    def _execution_of(self, test: Any) -> Execution:
        """The execution of a test; of a subtest, the one that runs."""
        for execution in [*reversed(self._open), *reversed(self._ended)]:
            if execution.test is test:
                return execution
        if self._open:
            return self._open[-1]
        self._ended.append(Execution(test=test))  # it reports without having started
        return self._ended[-1]

    def _note(
        self, test: Any, about: Any, outcome: Outcome, err: ExcInfo, entry: tuple[Any, str]
    ) -> None:
        problem = Problem(
            outcome=outcome,
            title=title_of(about),
            kind=err[0].__qualname__ if err[0] else "Exception",
            message=message_of(err[1]),
            text=cut(entry[1], _LONGEST_TEXT),
        )
        if self._ordinal is not None and not _is_fixture(test):
            self._add(test, Note(outcome=outcome, entry=entry, problem=problem))
            return
        self._known_entries.append(entry)
        name, owner = self.fixture
        if self._ordinal is not None:  # of a suite that a test, or a suite of its own making, runs
            name, owner = problem.title, _class_of_fixture(problem.title)
        elif name.startswith("setUp"):
            self._failed_fixtures[owner] = f"{name} failed"
        self._report(FixtureFailed(problem=problem, owner=owner))

    def _report_ended(self, *, over: bool) -> None:
        """Report what has ended since the last time."""
        if self._ordinal is None:
            return
        standing = {id(entry) for name in _LISTS for entry in getattr(self, name)}
        records = tuple(execution.record(standing) for execution in self._ended)
        self._known_entries += [note.entry for it in self._ended for note in it.notes if note.entry]
        self._ended = []
        self._report(Ended(ordinal=self._ordinal, records=records, over=over))

    def unit_ended(self, *, left_over: Sequence[Any]) -> None:
        """Report what makes a run of unittest fail without being an outcome of a test.

        Args:
            left_over: Tests that were added to a suite and have not run.
        """
        self.stopTestRun()
        self.fixture_ended()
        if not self.wasSuccessful() and not (
            self.failures or self.errors or self.unexpectedSuccesses
        ):
            self._apart("wasSuccessful()", "a test made the result's wasSuccessful() return false")
        for test in left_over:
            self._apart(title_of(test), "it was added to a suite by a fixture, and has not run")

    def _apart(self, title: str, message: str) -> None:
        """Report an error that is neither a test's nor raised by a fixture."""
        problem = Problem(
            outcome=Outcome.ERROR,
            title=title,
            kind="Unsuccessful",
            message=message,
            text=f"{message}\n",
        )
        self._report(FixtureFailed(problem=problem, owner=self.fixture[1]))

    def fixture_ended(self) -> None:
        """Report what a fixture has put into the lists without calling any method."""
        for _, note in self._foreign_entries():
            self._known_entries.append(note.entry)
            if note.problem is not None:
                self._report(FixtureFailed(problem=note.problem, owner=self.fixture[1]))

    def _take_over_foreign_entries(self) -> None:
        """Note what a test has put into the lists without calling any method of the result."""
        for test, note in self._foreign_entries():
            execution = self._execution_of(test)
            execution.notes.append(note)
            execution.reason = execution.reason or parts(note.entry)[1]

    def _foreign_entries(self) -> Iterator[tuple[Any, Note]]:
        """What is in the lists and not yet known, with the test that it is of."""
        executions = [*self._ended, *self._open]
        known = {id(note.entry) for it in executions for note in it.notes}
        known |= set(map(id, self._known_entries))
        for name, outcome in _LISTS.items():
            for entry in list(getattr(self, name)):
                if id(entry) not in known:
                    yield parts(entry)[0], note_of(outcome, entry)

    def _forget(self) -> None:
        """Put names for the tests in the lists: they are kept alive no longer, but still count."""
        self._ordinal = self._collected = None
        self._known_entries = []
        for name in _LISTS:
            entries = [light(entry) for entry in getattr(self, name)]
            setattr(self, name, entries)
            self._known_entries += entries

    def _exc_info_to_string(self, err: ExcInfo, test: Any) -> str:
        """Format a traceback; an exception that cannot be shown is still reported."""
        try:
            return str(super()._exc_info_to_string(err, test))  # type: ignore[misc]  # not in the stubs
        except Exception as broken:  # noqa: BLE001 - the failure must reach the report
            name = err[0].__qualname__ if err[0] else "an exception"
            return f"{name} (its traceback cannot be formatted: {type(broken).__qualname__})\n"


def _is_fixture(test: Any) -> bool:
    """Whether an error is of a class or module: what stands for these counts as no test."""
    return isinstance(test, unittest.suite._ErrorHolder)  # type: ignore[attr-defined]


def _class_of_fixture(title: str) -> str:
    """``module.Class`` of ``setUpClass (module.Class)``; nothing for a module's."""
    name, _, owner = title.partition(" (")
    return owner.removesuffix(")") if name.endswith("Class") else ""
