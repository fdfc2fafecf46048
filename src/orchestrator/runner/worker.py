"""A worker process: collect, then run the units the parent names, one at a time."""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections import defaultdict, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from orchestrator.runner import services, unpatched
from orchestrator.runner.channel import ChannelLostError, WorkerEnd, moved_up
from orchestrator.runner.collect import collect
from orchestrator.runner.messages import (
    Collected,
    Finished,
    Leave,
    Mismatch,
    NotCollected,
    Run,
    Setup,
    Stop,
)
from orchestrator.runner.output import Written
from orchestrator.runner.protocol import DUMP, LOST_CONTACT
from orchestrator.runner.result import Result
from orchestrator.runner.suite import UnitSuite

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from orchestrator.runner.collect import Loaded
    from orchestrator.runner.messages import Message

_INTERRUPTED: Final = 130
_ADDRESS: Final = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
_STOPPING: Final[dict[signal.Signals, Any]] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


class Worker:
    """Answers the parent until it says leave, or is gone."""

    def __init__(self, channel: WorkerEnd, setup: Setup, *, lifeline: int) -> None:
        self._channel = channel
        self._lifeline = lifeline
        self._setup = setup
        self._units: dict[str, Loaded] = {}
        self._masks: dict[int, set[signal.Signals | int]] = {}
        self._leaving = False
        self._sending = False
        self._interrupted = False
        self._result: Result | None = None
        self._streams = sys.stdout, sys.stderr
        self._outputs = moved_up(os.dup(1)), moved_up(os.dup(2))

    def serve(self) -> None:
        """Collect and run until there is nothing more to do."""
        if not self._collected():
            return
        _warn_as_unittest_does()  # once all is imported: a module's own filters come second
        for number in _STOPPING:
            signal.signal(number, self._on_signal)
        os.register_at_fork(
            before=self._before_fork,
            after_in_parent=self._after_fork,
            after_in_child=self._after_fork_in_child,
        )
        try:
            while not self._leaving:
                message = self._channel.receive()
                if not isinstance(message, Run):  # Stop or Leave while idle, or no parent any more
                    return
                self._run(message)
        finally:
            self._interrupted = True  # what runs at the exit cleans up, and is not interrupted

    def _collected(self) -> bool:
        try:
            self._units = collect(self._setup)
        except BaseException:  # noqa: BLE001 - a module may raise SystemExit when imported
            self._channel.send(NotCollected(text=traceback.format_exc()))
            return False
        self._streams = sys.stdout, sys.stderr  # as unittest's result has them: after the imports
        units = tuple(loaded.unit for loaded in self._units.values())
        if any(unit.services for unit in units):
            services.supervise(self._lifeline)
        self._channel.send(Collected(units=units if self._setup.report else ()))
        return True

    def _run(self, order: Run) -> None:
        try:
            tests = _matched(self._units.pop(order.unit, None), order)
        except LookupError as error:
            self._channel.send(Mismatch(unit=order.unit, text=str(error)))
            return
        result = Result(self._send, written=self._written, streams=self._streams)
        result.failfast = self._setup.failfast
        result.buffer = self._setup.buffer
        result.tb_locals = self._setup.tb_locals
        suite = UnitSuite(
            tests,
            report=self._send,
            between=self._obey,
            written=self._written,
        )
        self._result = result
        try:
            suite.run_unit(result)
        except KeyboardInterrupt:
            self._leaving = True
        self._flush()
        self._channel.send(
            Finished(
                unit=order.unit,
                seconds=suite.seconds,
                stopped=result.stopped,
                place=suite.interrupted_at,
            )
        )

    def _obey(self) -> None:
        """Between two tests: has the parent something to say, or has it died?"""
        if self._result is None or self._leaving or not self._channel.pending():
            return
        message = self._channel.receive()
        if message is None or isinstance(message, Stop | Leave):
            self._leaving = True
            self._result.halt("stop")

    def _send(self, message: Message) -> None:
        """Send from within a test; an interrupt waits until the line is complete."""
        self._sending = True
        try:
            self._channel.send(message)
        except ChannelLostError:
            # Nobody hears us any more: tear down as for an interrupt, once.
            if not self._leaving:
                self._leaving = True
                raise KeyboardInterrupt from None
        finally:
            self._sending = False
        if self._interrupted and not self._leaving:
            self._leaving = True
            raise KeyboardInterrupt

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        """Interrupt once; while tearing down nothing may interrupt, the parent can still kill."""
        if self._interrupted:
            return
        self._interrupted = True
        if not self._sending:
            self._leaving = True
            raise KeyboardInterrupt

    # A forked child must die of SIGTERM: multiprocessing ends its children that way, and waits for
    # them. Python forgets a signal that reaches the child before its handlers can run, so none may.

    def _before_fork(self) -> None:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        self._masks[threading.get_ident()] = mask

    def _after_fork(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.pop(threading.get_ident()))

    def _after_fork_in_child(self) -> None:
        for number, default in _STOPPING.items():
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, default)
        self._after_fork()

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


def _matched(loaded: Loaded | None, order: Run) -> deque[tuple[int, Any]]:
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
    """An id without what differs in every process: where in memory something is."""
    return _ADDRESS.sub("0x…", id_)


def _some(ids: set[str]) -> str:
    few = 3
    shown = ", ".join(sorted(ids)[:few]) or "none"
    return f"{shown} and {len(ids) - few} more" if len(ids) > few else shown


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
            Worker(channel, setup, lifeline=lifeline).serve()
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
