"""A unit's suite: unittest's fixtures, announced to the parent, and torn down on Ctrl-C too.

unittest lets ``KeyboardInterrupt`` and ``SystemExit`` fly past ``tearDownClass`` and the class and
module clean-ups. Here both end in a full teardown, because services live in class clean-ups.
"""

from __future__ import annotations

import sys
import unittest
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from orchestrator.runner import unpatched
from orchestrator.runner.collect import class_name, is_suite, owner_of, services_of
from orchestrator.runner.messages import FixtureBegan, ServicesUp

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterator

    from orchestrator.runner.result import Result, RunsUnits

__unittest = True  # unittest leaves the frames of such modules out of tracebacks
_CLEANUPS: Final = ("doClassCleanups", tuple)  # with what those that are no TestCase have
_TestSuite: Any = unittest.TestSuite  # its hooks are not in the type stubs


class UnitSuite(_TestSuite):  # type: ignore[misc]
    """The tests of one unit, with their ordinals, run once; what has run is held no longer."""

    def __init__(self, worker: RunsUnits, tests: deque[tuple[int, Any]]) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}
        self._worker = worker
        self._waiting = tests
        self._class_started = unpatched.now()
        self._standing_class: type | None = None
        self._owner = ""  # its name
        self._standing_module: type | None = None  # any class of it

    def run_unit(self, result: Result) -> None:
        """Run every test with its fixtures; after a KeyboardInterrupt all is torn down already."""
        try:
            self.run(result)
        except KeyboardInterrupt:
            result.interrupted()
            self._abandon(result)
            raise

    def _abandon(self, result: Any) -> None:
        """Run the tearDown methods and clean-ups that unittest skips after an interrupt."""
        test = result.cut_short
        # An asyncio test's loop is closed by now: its clean-ups cannot be awaited.
        if test is not None and not isinstance(test, unittest.IsolatedAsyncioTestCase):
            getattr(test, "doCleanups", lambda: None)()
        if self._standing_class is None and result._previousTestClass is type(test):
            # A suite of its own making sees to fixtures itself, but not after an interrupt.
            self._standing_class = self._standing_module = type(test)
        if self._standing_class is not None:
            result._previousTestClass = self._standing_class
            self._tearDownPreviousClass(None, result)
        if self._standing_module is not None:
            result._previousTestClass = self._standing_module
            self._handleModuleTearDown(result)

    def run(self, result: Any, debug: bool = False) -> Any:  # noqa: ARG002, FBT001, FBT002 - unittest's
        """Run what unittest's own suite would run, with the same fixtures, and hold nothing."""
        result._testRunEntered = True  # a suite that a test runs is not the outermost one
        while self._waiting:
            self._worker.between_tests()
            if result.shouldStop:
                break
            self._run_one(result, *self._waiting.popleft())
        self._tearDownPreviousClass(None, result)
        self._handleModuleTearDown(result)
        result._testRunEntered = False
        result.unit_ended(left_over=() if result.shouldStop else self._worker.suites.added())
        return result

    def _run_one(self, result: Any, ordinal: int, test: Any) -> None:
        added = tuple if self._waiting else self._worker.suites.added
        if is_suite(test):  # it sees to its fixtures itself
            began = unpatched.now()
            result.run_test(ordinal, test, added=added)
            self.seconds[owner_of(test)] = unpatched.now() - began
            return
        if type(test) is not result._previousTestClass:
            self._tearDownPreviousClass(test, result)
            self._handleModuleFixture(test, result)
            self._handleClassSetUp(test, result)
            result._previousTestClass = type(test)
        if getattr(type(test), "_classSetupFailed", False) or result._moduleSetUpFailed:
            result.leave_out(ordinal, test)
        else:
            result.run_test(ordinal, test, added=added)

    # unittest's hooks: no public ones exist; these have been stable since Python 2.7

    def _handleModuleFixture(self, test: Any, result: Any) -> None:
        cls = type(test)
        if self._get_previous_module(result) == cls.__module__:
            return
        with self._fixture(result, "setUpModule", cls.__module__) as failed:
            super()._handleModuleFixture(test, result)
        result._moduleSetUpFailed |= bool(failed)
        self._standing_module = None if result._moduleSetUpFailed else cls

    def _handleClassSetUp(self, test: Any, result: Any) -> None:
        cls: Any = type(test)
        if result._previousTestClass is cls:
            return
        owner = owner_of(test)
        self._class_started = unpatched.now()
        with self._fixture(result, "setUpClass", owner, cls) as failed:
            super()._handleClassSetUp(test, result)
        if failed:
            cls._classSetupFailed = True
        if not getattr(cls, "_classSetupFailed", False):
            self._standing_class, self._owner = cls, owner
            facts, secrets = services_of(cls)
            if facts:
                self._worker.report(ServicesUp(owner=owner, facts=facts, secrets=secrets))

    def _tearDownPreviousClass(self, test: Any, result: Any) -> None:
        previous = result._previousTestClass
        if previous is None or previous is type(test):
            return
        owner = self._owner if previous is self._standing_class else class_name(previous)
        with self._fixture(result, "tearDownClass", owner, previous):
            self._standing_class = None
            super()._tearDownPreviousClass(test, result)
        self.seconds[owner] = unpatched.now() - self._class_started

    def _handleModuleTearDown(self, result: Any) -> None:
        module = self._get_previous_module(result)
        if module is None:
            return
        with self._fixture(result, "tearDownModule", module):
            self._standing_module = None
            super()._handleModuleTearDown(result)

    @contextmanager
    def _fixture(
        self, result: Any, kind: str, place: str, cls: Any = None
    ) -> Iterator[list[BaseException]]:
        """Announce a fixture; catch, and yield, what unittest's ``except Exception`` does not."""
        caught: list[BaseException] = []
        cleanups = unittest.doModuleCleanups if cls is None else getattr(cls, *_CLEANUPS)
        if cls is not None or hasattr(sys.modules.get(place), kind):
            name, owner = f"{kind} ({place})", "" if cls is None else place
            result.fixture = (name, owner)
            written = self._worker.written()
            self._worker.report(FixtureBegan(name=name, owner=owner, written=written))
        try:
            yield caught
        except KeyboardInterrupt:
            cleanups()
            raise
        except BaseException as error:  # noqa: BLE001 - SystemExit, above all
            caught.append(error)
            self._createClassOrModuleLevelException(
                result, error, kind, place, info=unpatched.exc_info()
            )
            cleanups()
        result.see()
