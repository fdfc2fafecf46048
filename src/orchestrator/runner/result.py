"""The worker's test result: it formats on the spot and reports every outcome to the parent."""

from __future__ import annotations

import time
import unittest
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any, Final

from orchestrator.runner.collect import owner_of, title_of
from orchestrator.runner.messages import Began, Ended, FixtureFailed
from orchestrator.runner.outcome import Outcome, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import TypeAlias

    from orchestrator.runner.messages import Message

    ExcInfo: TypeAlias = (
        tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
    )

_LONGEST_TEXT: Final = 1 << 20
_LONGEST_MESSAGE: Final = 2000
_WORST_FIRST: Final = (
    Outcome.ERROR,
    Outcome.FAILURE,
    Outcome.UNEXPECTED_SUCCESS,
    Outcome.SKIPPED,
    Outcome.EXPECTED_FAILURE,
    Outcome.OK,
)


class Result(unittest.TestResult):
    """Turns unittest's calls into messages.

    A test may add several things (a failing body and a failing tearDown, subtests); its outcome is
    the worst of them. It copes with calls out of step: Python 3.12.1 does not call ``startTest``
    for a skipped test but does call ``stopTest``.
    """

    def __init__(self, report: Callable[[Message], None], *, written: Callable[[], int]) -> None:
        super().__init__()
        self.stopped = ""
        self.current: Any = None
        self.cut_short: Any = None  # the test that an interrupt ended
        self.fixture: tuple[str, str] = ("", "")  # name, owner
        self.failed_fixtures: dict[str, str] = {}  # owner -> why its tests cannot run
        self.skipped_fixtures: dict[str, str] = {}
        self._report = report
        self._written = written
        self._ordinals: dict[int, deque[int]] = defaultdict(deque)
        self._ended: set[int] = set()
        self._outcomes: list[Outcome] = []
        self._problems: list[Problem] = []
        self._reason = ""
        self._ordinal: int | None = None
        self._started = 0.0

    def expect(self, tests: Iterable[tuple[int, Any]]) -> None:
        """Tell which tests are coming, by ordinal; the same object may come twice."""
        for ordinal, test in tests:
            self._ordinals[id(test)].append(ordinal)

    def settle(self, tests: Iterable[tuple[int, Any]]) -> None:
        """Account for the tests that unittest passed over without a word."""
        for ordinal, test in tests:
            if ordinal in self._ended:
                continue
            owner = owner_of(type(test))
            skipped = self._first(self.skipped_fixtures, owner)
            failed = self._first(self.failed_fixtures, owner)
            if skipped is not None and failed is None:
                self._send(ordinal, Outcome.SKIPPED, (), skipped, 0.0)
            elif failed is not None or not self.stopped:
                reason = failed or "it ended without an outcome"
                self._send(ordinal, Outcome.NOT_RUN, (), reason, 0.0)

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
        """Report that a test begins."""
        super().startTest(test)
        self._begin(test)

    def stopTest(self, test: Any) -> None:
        """Report how it ended."""
        super().stopTest(test)
        if self.current is not None:
            self._finish()

    def addSuccess(self, test: Any) -> None:
        """Note a success."""
        super().addSuccess(test)
        self._outcomes.append(Outcome.OK)

    def addError(self, test: Any, err: ExcInfo) -> None:
        """Note an error of a test or of a fixture."""
        super().addError(test, err)
        self._note(test, Outcome.ERROR, err, self.errors)

    def addFailure(self, test: Any, err: ExcInfo) -> None:
        """Note a failure."""
        super().addFailure(test, err)
        self._note(test, Outcome.FAILURE, err, self.failures)

    def addSubTest(self, test: Any, subtest: Any, err: ExcInfo | None) -> None:
        """Note a subtest that failed; one that passed is part of its test."""
        super().addSubTest(test, subtest, err)
        if err is None or err[0] is None:
            return
        failed = issubclass(err[0], test.failureException)
        outcome = Outcome.FAILURE if failed else Outcome.ERROR
        self._note(subtest, outcome, err, self.failures if failed else self.errors)

    def addSkip(self, test: Any, reason: str) -> None:
        """Note a skip of a test, a subtest or a whole fixture."""
        super().addSkip(test, reason)
        self.skipped.clear()
        if self.current is None and id(test) in self._ordinals:
            self._begin(test)
        if self.current is None:
            self.skipped_fixtures[self.fixture[1]] = reason
            return
        self._outcomes.append(Outcome.SKIPPED)
        self._reason = self._reason or str(reason)

    def addExpectedFailure(self, test: Any, err: ExcInfo) -> None:
        """Note a failure that was expected."""
        super().addExpectedFailure(test, err)
        self.expectedFailures.clear()
        self._outcomes.append(Outcome.EXPECTED_FAILURE)

    def addUnexpectedSuccess(self, test: Any) -> None:
        """Note a success that should have been a failure."""
        super().addUnexpectedSuccess(test)
        self.unexpectedSuccesses.clear()
        self._outcomes.append(Outcome.UNEXPECTED_SUCCESS)
        self._problems.append(
            Problem(
                outcome=Outcome.UNEXPECTED_SUCCESS,
                title=title_of(test),
                kind="UnexpectedSuccess",
                message="the test is marked as an expected failure and passed",
                text="",
            )
        )

    def addDuration(self, test: Any, elapsed: float) -> None:
        """Python 3.12 and later measure too; ours covers every version."""

    # Ours

    def _begin(self, test: Any) -> None:
        self.current = test
        self._outcomes, self._problems, self._reason = [], [], ""
        ordinals = self._ordinals.get(id(test))
        self._ordinal = ordinals.popleft() if ordinals else None
        if self._ordinal is not None:
            self._report(Began(ordinal=self._ordinal, offset=self._written()))
        self._started = time.perf_counter()

    def _finish(self) -> None:
        seconds = time.perf_counter() - self._started
        test, self.current = self.current, None
        if self._ordinal is None:
            return  # a test made by a test, run against our result: no one collected it
        if not self._outcomes:
            self.cut_short = test
            return
        outcome = min(self._outcomes, key=_WORST_FIRST.index)
        reason = self._reason if outcome is Outcome.SKIPPED else ""
        self._send(self._ordinal, outcome, tuple(self._problems), reason, seconds)

    def _send(
        self,
        ordinal: int,
        outcome: Outcome,
        problems: tuple[Problem, ...],
        reason: str,
        seconds: float,
    ) -> None:
        self._ended.add(ordinal)
        self._report(
            Ended(
                ordinal=ordinal,
                outcome=outcome,
                problems=problems,
                reason=reason,
                seconds=seconds,
            )
        )

    def _note(
        self, test: Any, outcome: Outcome, err: ExcInfo, noted: list[tuple[Any, str]]
    ) -> None:
        _, text = noted.pop()
        problem = Problem(
            outcome=outcome,
            title=title_of(test),
            kind=err[0].__qualname__ if err[0] else "Exception",
            message=_message(err[1]),
            text=_cut(text, _LONGEST_TEXT),
        )
        if self.current is not None:
            self._outcomes.append(outcome)
            self._problems.append(problem)
            return
        name, owner = self.fixture
        if name.startswith("setUp"):
            self.failed_fixtures[owner] = f"{name} failed"
        self._report(FixtureFailed(problem=problem, owner=owner))

    def _exc_info_to_string(self, err: ExcInfo, test: Any) -> str:
        """Format a traceback; an exception that cannot be shown is still reported."""
        try:
            return str(super()._exc_info_to_string(err, test))  # type: ignore[misc]  # not in the stubs
        except Exception as broken:  # noqa: BLE001 - the failure must reach the report
            name = err[0].__qualname__ if err[0] else "an exception"
            return f"{name} (its traceback cannot be formatted: {type(broken).__qualname__})\n"


def _message(error: BaseException | None) -> str:
    try:
        return _cut(str(error), _LONGEST_MESSAGE)
    except Exception:  # noqa: BLE001 - str() of a user's exception may raise anything
        return "(the message cannot be shown)"


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n… {len(text) - longest} characters left out …\n{text[-half:]}"
