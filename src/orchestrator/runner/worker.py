"""A worker process: collect, then run the units the parent names, one at a time."""

from __future__ import annotations

import faulthandler
import os
import re
import sys
import traceback
import warnings
from collections import defaultdict, deque
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from io import StringIO
from typing import TYPE_CHECKING, Any, Final

from orchestrator.runner import unpatched
from orchestrator.runner.channel import ChannelLostError, WorkerEnd, WorkerScores
from orchestrator.runner.collect import Group, PlainSuites, class_name, collect
from orchestrator.runner.messages import (
    LOST_CONTACT,
    Collected,
    Finished,
    FixtureFailed,
    Prepare,
    Prepared,
    RunUnit,
    Setup,
    Stop,
    Written,
)
from orchestrator.runner.result import Result
from orchestrator.runner.results import Problem, some
from orchestrator.runner.suite import UnitSuite
from orchestrator.runner.unpatched import DUMP, Interruption, Watch, moved_up

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.runner.messages import Message
    from orchestrator.runner.options import Options
    from orchestrator.runner.results import Test

_INTERRUPTED: Final = 130
_ADDRESS: Final = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
_OLD_ASSERTS: Final = r"Please use assert\w+ instead."
_BETWEEN_LOOKS: Final = 0.01  # seconds


class Worker:
    """Answers the parent until it says leave, or is gone; what suites and results go by."""

    def __init__(self, channel: WorkerEnd, scores: WorkerScores, options: Options) -> None:
        self.options = options
        self.scores = scores
        self.suites = PlainSuites()
        self.streams = sys.stdout, sys.stderr
        self._channel = channel
        self._interruption = Interruption()
        self._groups: dict[str, Group] = {}
        self._leaving = False
        self._looks_at = 0.0  # for a word of the parent
        self._prepared: type | None = None  # the class whose services have started ahead
        self._seconds_ahead = 0.0  # that this took
        self._results: list[Result] = []  # the last one is of the unit that runs
        self._outputs = moved_up(os.dup(1)), moved_up(os.dup(2))

    def serve(self, *, lifeline: int, report: bool) -> None:
        """Collect and run until there is nothing more to do."""
        if not self._collected(lifeline, report=report):
            return
        if not sys.warnoptions:  # as unittest does; a module's own filters come second
            warnings.simplefilter("default")
            warnings.filterwarnings("module", category=DeprecationWarning, message=_OLD_ASSERTS)
        try:
            while not self._leaving:
                message = self._channel.receive()
                if isinstance(message, Prepare):
                    self._prepare(message)
                elif isinstance(message, RunUnit):
                    self._run(message)
                else:  # Stop, or no parent any more
                    self._leaving = True
                    self._drop_prepared()
                    if self._results and "orchestrator.environment.context" in sys.modules:
                        from orchestrator.environment.context import left_behind

                        self._results[-1].left_behind(left_behind())
                    for result in self._results:  # a thread may have put something in since
                        result.see()
        finally:
            self._interruption.over()  # what runs at the exit cleans up
            self._drop_prepared()

    def _collected(self, lifeline: int, *, report: bool) -> bool:
        try:
            groups = collect(self.options, self.suites)
        except BaseException:  # noqa: BLE001 - a module may raise SystemExit when imported
            self._channel.send(Collected(trouble=traceback.format_exc()))
            return False
        self.streams = sys.stdout, sys.stderr  # as unittest's result has them: after the imports
        self._groups = {group.key: group for group in groups}
        if "orchestrator.mixin" in sys.modules:
            from orchestrator.sessions import supervised  # plain suites need none of this

            # Its containers outlive this worker until the parent has read their logs.
            timeouts = self.options.timeouts
            supervised(lifeline, grace=timeouts.finish + timeouts.teardown)
        reported = groups if report else ()
        self._channel.send(Collected(units=tuple(group.unit for group in reported)))
        return True

    def _prepare(self, order: Prepare) -> None:
        """Start the services of a class; whatever goes wrong, its fixture does it all again."""
        try:
            _matched(self._groups.get(order.unit), order)
        except LookupError as error:
            self._channel.send(Prepared(trouble=str(error)))
            return
        from orchestrator.environment import start_ahead  # who has services has loaded it

        began, self._prepared = unpatched.now(), type(self._groups[order.unit].tests[0])
        try:
            with ExitStack() as hidden:
                if self.options.buffer:
                    hidden.enter_context(redirect_stdout(StringIO()))
                    hidden.enter_context(redirect_stderr(StringIO()))
                start_ahead(self._prepared)
        except KeyboardInterrupt:
            self._leaving = True
        except BaseException:  # noqa: BLE001, S110 - of a migration, perhaps, and told when it counts
            pass
        self._seconds_ahead = unpatched.now() - began
        self._channel.send(Prepared())

    def _drop_prepared(self) -> None:
        """Remove what was started ahead for a class that had no use for it."""
        cls, self._prepared = self._prepared, None
        if cls is not None:
            from orchestrator.environment import drop_ahead

            drop_ahead(cls)

    def _run(self, order: RunUnit) -> None:
        try:
            # nothing here may hold a test that has run
            waiting, names = _matched(self._groups.pop(order.unit, None), order, order.order)
        except LookupError as error:  # run nothing
            title, kind = f"collection of {order.unit}", "CollectedDifferently"
            problem = Problem(title=title, kind=kind, message=str(error))
            self._channel.send(FixtureFailed(problem=problem, owner=""))
            self._channel.send(Finished(seconds={}, stopped="mismatch"))
            return
        self._results.append(result := Result(self, names))
        try:
            (suite := UnitSuite(self, waiting)).run_unit(result)
        except KeyboardInterrupt:
            self._leaving = True
        if self._prepared is not None and (name := class_name(self._prepared)) in suite.seconds:
            suite.seconds[name] += self._seconds_ahead
        self._drop_prepared()
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # a test closed or replaced it
                stream.flush()
        self._channel.send(Finished(seconds=suite.seconds, stopped=result.stopped))

    @property
    def asked_to_end(self) -> bool:
        """Whether the parent has interrupted it, or cannot be heard any more."""
        return self._interruption.came

    def between_tests(self) -> None:
        """Look whether the parent has something to say, or has died."""
        if self._leaving or unpatched.now() < self._looks_at:
            return
        pending, self._looks_at = self._channel.pending(), unpatched.now() + _BETWEEN_LOOKS
        if not pending:
            return
        message = self._channel.receive()
        if message is None or isinstance(message, Stop):
            self._leaving = True
            self._results[-1].halt("stop")

    def report(self, message: Message) -> None:
        """Send from within a test."""
        try:
            self._interruption.undisturbed(self._channel.send, message)
        except ChannelLostError:
            # Nobody hears us any more: tear down as for an interrupt, once.
            if not self._interruption.came:
                self._interruption.over()
                raise KeyboardInterrupt from None

    def written(self) -> Written:
        """How much this worker has written to its output so far."""
        try:
            out, err = (unpatched.fstat(descriptor).st_size for descriptor in self._outputs)
        except OSError:  # a test closed it
            return Written()
        return Written(out=out, err=err)


def _matched(
    group: Group | None, order: RunUnit | Prepare, places: Sequence[int] = ()
) -> tuple[deque[tuple[int, Any]], Mapping[int, Test]]:
    """The tests to run, with their ordinals; and, by ordinal, how those are described.

    The n-th of an id that the parent knows is the n-th of it here.

    Raises:
        LookupError: This process collected other tests than the parent was told about.
    """
    if group is None:
        raise LookupError(f"{order.unit} was not collected in this worker")
    found = list(zip(group.unit.tests, group.tests, strict=True))
    if [known.id for known, _ in found] != [*order.ids]:
        here, there = [_comparable(known.id) for known, _ in found], [*map(_comparable, order.ids)]
        if sorted(there) != sorted(here):
            raise LookupError(
                f"{order.unit} holds {len(here)} tests in this worker and {len(there)} in "
                f"the one that collected first; only here: {some(set(here) - set(there))}; only "
                f"there: {some(set(there) - set(here))}. Tests must be collected the same each "
                "time"
            )
        by_id: dict[str, list[tuple[Test, Any]]] = defaultdict(list)
        for id_, pair in zip(here, found, strict=True):
            by_id[id_].append(pair)
        found = [by_id[id_].pop(0) for id_ in there]
    names = {place: found[place][0] for place in places}
    return deque((place, found[place][1]) for place in places), names


def _comparable(id_: str) -> str:
    """An id without the memory addresses in it, which differ from process to process."""
    return _ADDRESS.sub("0x…", id_)


def main(argv: Sequence[str]) -> int:
    """Serve the parent, by the descriptors that it passes."""
    end, lifeline, stacks, scores = map(int, argv)
    channel, lifeline, stacks = WorkerEnd(end), moved_up(lifeline), moved_up(stacks)
    noted = WorkerScores(scores, channel)
    faulthandler.enable(stacks)
    faulthandler.register(DUMP, stacks, all_threads=True, chain=False)
    sys.argv[1:] = []
    try:
        setup = channel.receive()
        if isinstance(setup, Setup):
            worker = Worker(channel, noted, setup.options)
            Watch(lifeline, setup.options.timeouts)
            worker.serve(lifeline=lifeline, report=setup.report)
    except ChannelLostError:
        return LOST_CONTACT
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
