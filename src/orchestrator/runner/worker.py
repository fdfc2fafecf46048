"""A worker process: collect, then run the units the parent names, one at a time."""

from __future__ import annotations

import faulthandler
import os
import re
import sys
import traceback
import warnings
from collections import defaultdict, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from orchestrator.runner import unpatched
from orchestrator.runner.channel import ChannelLostError, WorkerEnd, moved_up
from orchestrator.runner.collect import PlainSuites, collect
from orchestrator.runner.interruption import Interruption, Watch
from orchestrator.runner.messages import (
    DUMP,
    LOST_CONTACT,
    Collected,
    Finished,
    FixtureFailed,
    Leave,
    NotCollected,
    RunUnit,
    Setup,
    Stop,
    Written,
)
from orchestrator.runner.result import Result
from orchestrator.runner.results import Outcome, Problem
from orchestrator.runner.suite import UnitSuite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.runner.collect import Loaded
    from orchestrator.runner.messages import Message

_INTERRUPTED: Final = 130
_ADDRESS: Final = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")


class Worker:
    """Answers the parent until it says leave, or is gone."""

    def __init__(
        self, channel: WorkerEnd, setup: Setup, *, lifeline: int, interruption: Interruption
    ) -> None:
        self._channel = channel
        self._lifeline = lifeline
        self._interruption = interruption
        self._setup = setup
        self._options = setup.options
        self._units: dict[str, Loaded] = {}
        self._suites = PlainSuites()
        self._leaving = False
        self._results: list[Result] = []  # the last one is of the unit that runs
        self._streams = sys.stdout, sys.stderr
        self._outputs = moved_up(os.dup(1)), moved_up(os.dup(2))

    def serve(self) -> None:
        """Collect and run until there is nothing more to do."""
        if not self._collected():
            return
        _warn_as_unittest_does()  # once all is imported: a module's own filters come second
        try:
            while not self._leaving:
                message = self._channel.receive()
                if not isinstance(message, RunUnit):  # Stop, Leave, or no parent any more
                    for result in self._results:  # a thread may have put something in since
                        result.fixture_ended()
                    return
                self._run(message)
        finally:
            self._interruption.over()  # what runs at the exit cleans up

    def _collected(self) -> bool:
        try:
            self._units = collect(self._options, self._suites)
        except BaseException:  # noqa: BLE001 - a module may raise SystemExit when imported
            self._channel.send(NotCollected(text=traceback.format_exc()))
            return False
        self._streams = sys.stdout, sys.stderr  # as unittest's result has them: after the imports
        units = tuple(loaded.unit for loaded in self._units.values())
        if any(unit.services for unit in units):
            from orchestrator.sessions import supervised  # plain suites need none of this

            # Its containers outlive this worker until the parent has read their logs.
            timeouts = self._options.timeouts
            supervised(self._lifeline, grace=timeouts.finish + timeouts.teardown)
        self._channel.send(Collected(units=units if self._setup.report else ()))
        return True

    def _run(self, order: RunUnit) -> None:
        try:
            tests = _matched(self._units.pop(order.unit, None), order)
        except LookupError as error:
            self._refuse(order, str(error))
            return
        result = Result(self._send, written=self._written, streams=self._streams)
        result.failfast = self._options.failfast
        result.buffer = self._options.buffer
        result.tb_locals = self._options.tb_locals
        suite = UnitSuite(
            tests,
            report=self._send,
            between=self._check_for_stop,
            written=self._written,
            added=self._suites.added,
        )
        self._results.append(result)
        trace = ""
        try:
            suite.run_unit(result)
        except KeyboardInterrupt as error:
            self._leaving = True
            trace = _trace(error)
        self._flush()
        self._channel.send(
            Finished(
                seconds=suite.seconds,
                stopped=result.stopped,
                place=suite.interrupted_at,
                trace=trace,
            )
        )

    def _refuse(self, order: RunUnit, text: str) -> None:
        """Run nothing of a unit: the parent was told of other tests than are known here."""
        problem = Problem(
            outcome=Outcome.ERROR,
            title=f"collection of {order.unit}",
            kind="CollectedDifferently",
            message=text,
            text=text,
        )
        self._channel.send(FixtureFailed(problem=problem, owner=""))
        self._channel.send(Finished(seconds={}, stopped="mismatch", place="", trace=""))

    def _check_for_stop(self) -> None:
        """Between two tests: has the parent something to say, or has it died?"""
        if self._leaving or not self._channel.pending():
            return
        message = self._channel.receive()
        if message is None or isinstance(message, Stop | Leave):
            self._leaving = True
            self._results[-1].halt("stop")

    def _send(self, message: Message) -> None:
        """Send from within a test."""
        try:
            with self._interruption.held():
                self._channel.send(message)
        except ChannelLostError:
            # Nobody hears us any more: tear down as for an interrupt, once.
            if not self._interruption.came:
                self._interruption.over()
                raise KeyboardInterrupt from None

    def _flush(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # a test closed or replaced it
                stream.flush()

    def _written(self) -> Written:
        """How much this worker has written to its output so far."""
        out, err = map(_size, self._outputs)
        return Written(out=out, err=err)


def _size(descriptor: int) -> int:
    try:
        return unpatched.fstat(descriptor).st_size
    except OSError:  # a test closed it
        return 0


def _matched(loaded: Loaded | None, order: RunUnit) -> deque[tuple[int, Any]]:
    """The tests to run, with their ordinals: the n-th of an id there is the n-th of it here.

    Raises:
        LookupError: This process collected other tests than the parent was told about.
    """
    if loaded is None:
        raise LookupError(f"{order.unit} was not collected in this worker")
    ids = [_comparable(test.id) for test in loaded.unit.tests]
    wanted = list(map(_comparable, order.ids))
    here: dict[str, list[Any]] = defaultdict(list)
    for id_, test in zip(ids, loaded.tests, strict=True):
        here[id_].append(test)
    if sorted(ids) != sorted(wanted):
        there = set(wanted)
        raise LookupError(
            f"{order.unit} holds {len(loaded.tests)} tests in this worker and {len(order.ids)} in "
            f"the one that collected first; only here: {_some(set(here) - there)}; "
            f"only there: {_some(there - set(here))}. Tests must be collected the same each time"
        )
    tests = [here[id_].pop(0) for id_ in wanted]
    return deque((ordinal, tests[ordinal]) for ordinal in order.order)


def _comparable(id_: str) -> str:
    """An id without the memory addresses in it, which differ from process to process."""
    return _ADDRESS.sub("0x…", id_)


def _some(ids: set[str]) -> str:
    few = 3
    shown = ", ".join(sorted(ids)[:few]) or "none"
    return f"{shown} and {len(ids) - few} more" if len(ids) > few else shown


def _trace(error: BaseException) -> str:
    """A traceback without the frames of unittest and of this runner."""
    trace = error.__traceback__
    while trace is not None and (
        "__unittest" in trace.tb_frame.f_globals or trace.tb_frame.f_globals is globals()
    ):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace, chain=False))


def main(argv: Sequence[str]) -> int:
    """Serve the parent.

    Args:
        argv: The descriptor of the socket to the parent, and that of the parent's lifeline.
    """
    faulthandler.enable()
    faulthandler.register(DUMP, all_threads=True, chain=False)
    sys.argv[1:] = []
    channel = WorkerEnd(int(argv[0]))
    lifeline = moved_up(int(argv[1]))
    try:
        setup = channel.receive()
        if isinstance(setup, Setup):
            interruption = Interruption()
            Watch(lifeline, setup.options.timeouts)
            Worker(channel, setup, lifeline=lifeline, interruption=interruption).serve()
    except ChannelLostError:
        return LOST_CONTACT
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def _warn_as_unittest_does() -> None:
    if not sys.warnoptions:
        warnings.simplefilter("default")
        warnings.filterwarnings("module", category=DeprecationWarning, message=_OLD_ASSERTS)


_OLD_ASSERTS: Final = r"Please use assert\w+ instead."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
