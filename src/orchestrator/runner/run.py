"""A run, in the parent: it imports no test code, hands units to workers, records what they say.

Whatever becomes of a worker, every collected test has an outcome in the end: the test at which it
died is an error, the others of its unit run elsewhere or are counted as not run.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.runner import crash_reports, messages
from orchestrator.runner.history import History
from orchestrator.runner.pool import Interrupts, WorkerPool, environment, measured_workers
from orchestrator.runner.results import Outcome, Output, Record, Results, Status, Unit, UnitResult
from orchestrator.runner.schedule import choose
from orchestrator.runner.text_report import Text
from orchestrator.runner.worker_handle import Ending, State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.runner.crash_logs import CrashLogs
    from orchestrator.runner.options import Options
    from orchestrator.runner.results import Problem
    from orchestrator.runner.schedule import Schedule
    from orchestrator.runner.worker_handle import WorkerHandle

_CRASHES: Final = 3  # after that many reruns the class itself is the problem
_FAILED_STARTS: Final = 5  # in a row: somebody may be killing workers, so several tries are due
_BY_ITSELF: Final = 3  # what the end of a process by itself counts for
_SECOND: Final = 2


def run_tests(options: Options) -> int:
    """Run tests and report them; returns the exit status. No worker is left then."""
    text = Text(sys.stderr, stdout=sys.stdout, verbosity=options.verbosity)
    with Interrupts() as interrupts:  # one Ctrl-C too many must not cost the reports
        run_id = os.environ.get("ORCHESTRATOR_RUN") or str(uuid.uuid4())
        with measured_workers(environment(options, run_id=run_id)) as environ:
            results = Run(options, text, interrupts, environ=environ).work()
        text.summary(results, durations=options.durations)
        if options.junit is not None:
            from orchestrator.runner import junit_report  # most runs need no XML

            try:
                junit_report.write(results, Path(options.junit))
            except OSError as error:
                text.note(f"--junit {options.junit} could not be written: {error.strerror}")
                return results.status or Status.FAILED
    return results.status


class Run:
    """The state of one run, and what follows from everything that happens in it."""

    def __init__(
        self, options: Options, text: Text, interrupts: Interrupts, *, environ: Mapping[str, str]
    ) -> None:
        self.results = Results(started=time.time())
        self._options = options
        self._text = text
        self._interrupts = interrupts
        self._history = History(Path.cwd())
        self._known: set[str] | None = None  # the ids of all tests there are
        self._schedule: Schedule | None = None  # until the tests are collected
        self._failed_starts = 0
        self._others_run = False  # whether other shards have classes
        self._stopped = ""  # why no further test starts
        self._interrupted = False  # by Ctrl-C or a signal, or by a test's KeyboardInterrupt
        self._asked = 0  # how many interrupts have been acted on
        self._run_id = environ["ORCHESTRATOR_RUN"]
        self._pool = WorkerPool(options, environ=environ, interrupts=interrupts, told=text.told)

    def work(self) -> Results:
        """Run the tests; when this returns, no worker is left."""
        clock = time.perf_counter()
        with ExitStack() as self._ending, self._pool:
            self._start_workers()
            while self._pool.workers:
                self._go_on()
        if self.results.share_servers:
            from orchestrator.environment.shared import end_run  # other suites need none of this

            end_run(self._run_id)
        for unit in self.results.units:
            unit.not_run(self._stopped or "the run ended early")
        # a part of a class says nothing about how long the whole takes
        seconds = {} if self._options.keep else self.results.class_seconds()
        passed, failed = self.results.ids(stopped=bool(self._stopped))
        self._history.record(seconds, passed=passed, failed=failed, known=self._known)
        self.results.status = self._status()
        self.results.seconds = time.perf_counter() - clock
        return self.results

    def _go_on(self) -> None:
        """Wait for something to happen, and do what follows from it."""
        for worker, message in self._pool.events():
            self._handle(worker, message)
        for worker in self._pool.workers:
            self._see_passed(worker)
        self._act_on_interrupts()
        if self._schedule is not None:
            self._start_workers()
        if any(running.unit.services for running in self._pool.running()):
            self._crash_logs.prepare()
        self._text.tick(self._pool.workers)

    def _start_workers(self) -> None:
        """Start the worker that collects first, then those for whom there is work."""
        try:
            if self._schedule is None:
                self._pool.start(report=True)
            else:
                self._pool.assign(self._schedule)
        except OSError as error:  # descriptors or processes are used up
            said = f"No more workers can be started: {error.strerror or error}"
            if staying := sum(it.stays for it in self._pool.workers):
                if staying < self._pool.jobs:
                    self._text.note(f"{said}; {staying} of {self._pool.jobs} run the tests")
                self._pool.jobs, self._pool.spares = staying, False
            elif not self._pool.workers:
                self._give_up(crash_reports.not_collected(said))

    def _give_up(self, problem: Problem) -> None:
        self._fixture_failed(self._apart("collection"), problem)
        self._stop("no worker could be started")

    @cached_property
    def _crash_logs(self) -> CrashLogs:
        from orchestrator.runner.crash_logs import CrashLogs  # plain suites need none of this

        logs = CrashLogs(run=self._run_id, folder=self._options.logs)
        self._ending.callback(logs.close)
        return logs

    def _status(self) -> Status:
        if self._interrupted:
            return Status.INTERRUPTED
        if self._schedule is None:
            return Status.NOT_COLLECTED
        if not any(unit.order for unit in self.results.units):
            return Status.OK if self._others_run else Status.NOTHING_RAN
        return Status.OK if self.results.successful else Status.FAILED

    # What workers say

    def _see_passed(self, worker: WorkerHandle) -> None:
        """Record what has passed: no messages tell of it."""
        if (unit := worker.unit) is not None:
            for ordinal, seconds in worker.passed():
                self._show(unit, unit.passed(ordinal, seconds))

    def _handle(self, worker: WorkerHandle, message: messages.Message | None) -> None:
        """Act on a message, or on the end, of a worker."""
        self._see_passed(worker)
        unit = worker.unit
        match message:
            case None:
                self._ended(worker)
            case messages.Collected(trouble=""):
                self._collected(worker, message.units)
            case messages.Collected():
                self._not_collected(worker, message.trouble)
            case messages.Prepared():
                worker.release()
                if message.trouble:  # it has collected other tests
                    self._not_ahead(worker)
                    worker.leave()
            case messages.FixtureFailed():
                unit = unit or self._apart(f"worker {worker.number}")
                self._fixture_failed(unit, message.problem, owner=message.owner)
            case _ if unit is not None:  # else it speaks of one that it has left
                self._follow(worker, unit, message)

    def _follow(self, worker: WorkerHandle, unit: UnitResult, message: messages.Message) -> None:
        """Note where a worker is in its unit, and what it has found out.

        What ran when the time was up is the error, also where it goes on when it is looked at.
        """
        in_time = worker.ending is not Ending.TIMEOUT
        worker.up |= not isinstance(message, messages.FixtureBegan)
        match message:
            case messages.Began():
                worker.inner = message.ordinal, message.title
            case messages.Ended() if in_time or message.ordinal != worker.ordinal:
                records = unit.record(message.ordinal, message.records, over=message.over)
                self._show(unit, records)
            case messages.FixtureBegan() if in_time:
                if message.owner != worker.owner:
                    self._output(worker, until=message.written)
                    worker.owner = message.owner
                    worker.class_began()
                worker.phase = message.name
            case messages.ServicesUp():
                unit.facts[message.owner] = message.facts
                worker.secrets = message.secrets
            case messages.Finished():
                self._finished(worker, unit, message)

    def _finished(self, worker: WorkerHandle, unit: UnitResult, message: messages.Finished) -> None:
        unit.seconds.update(message.seconds)
        if message.stopped == "mismatch":
            self._show(unit, unit.not_run("it was collected differently"))
        elif message.stopped == "interrupt" or worker.ending is Ending.TIMEOUT:
            self._cut_short(worker, unit, status=None)
        if message.stopped in ("interrupt", "stop") or worker.ending is Ending.TIMEOUT:
            worker.leave()
        self._left(worker, unit)

    def _left(self, worker: WorkerHandle, unit: UnitResult) -> None:
        """A worker has done with its unit; when all of that is over, what failed may run again."""
        self._output(worker)
        worker.release()
        if self._schedule is not None and not self._stopped and unit.reopen():
            self._schedule.put_back(unit, last=True)  # in a worker that is new to it

    def _not_ahead(self, worker: WorkerHandle) -> None:
        """What a worker was to run, another one does, and nothing is started ahead any more."""
        unit, worker.ahead = worker.ahead, None
        if unit is not None and self._schedule is not None:
            self._pool.spares = False
            if not self._stopped:
                self._schedule.put_back(unit)

    def _not_collected(self, worker: WorkerHandle, trouble: str) -> None:
        interrupted = worker.ending is not Ending.NONE  # then nobody needs it
        worker.leave()
        if worker.spare:
            self._pool.spares = False
        elif self._schedule is None or not interrupted:
            self._fixture_failed(self._apart("collection"), crash_reports.not_collected(trouble))
            if self._schedule is not None:
                self._start_failed(worker, status=0)

    def _collected(self, worker: WorkerHandle, units: Sequence[Unit]) -> None:
        """A worker is ready; with the first one the tests are known: decide what runs."""
        if worker.ending is not Ending.NONE:  # too late: an import swallowed the interrupt
            worker.kill()
            return
        self._failed_starts = 0
        worker.release()
        if self._schedule is not None:  # what imports print is shown once
            worker.shown = worker.output.written()
            return
        self._output(worker, title="collection")
        if self._options.are_for_all_tests:
            self._known = {test.id for unit in units for test in unit.tests}
        self._others_run = bool(units) and self._options.shard is not None
        results, self._schedule = choose(
            units, self._options, history=self._history, note=self._text.note
        )
        self.results.units += results
        self._text.planned(self.results)

    def _start_failed(self, worker: WorkerHandle, *, status: int) -> None:
        """Go on without a worker that could not collect; when there is no other, give up."""
        if worker.spare:
            self._pool.spares = False
            return
        by_itself = status >= 0 or worker.ending is Ending.TIMEOUT
        self._failed_starts += _BY_ITSELF if by_itself else 1
        if self._failed_starts < _FAILED_STARTS:
            if self._schedule is None:
                self._start_workers()
        elif others := sum(it.stays for it in self._pool.workers):
            self._pool.jobs = others  # go on with those that did start
        elif worker.state is State.COLLECTING:
            self._give_up(crash_reports.failed_start(worker, status=status))
        else:  # it has told why
            self._stop("no worker could be started")

    # After the end of a worker, or of a unit before its time

    def _ended(self, worker: WorkerHandle) -> None:
        """A worker is dead: record what it was doing."""
        status, unit, logs = worker.reap(), worker.unit, ""
        if status != 0 and worker.served:
            logs = self._crash_logs.take(pid=worker.pid, secrets=worker.secrets)
        if unit is not None:
            self._cut_short(worker, unit, status=status, logs=logs)
            self._left(worker, unit)
        elif worker.state is State.COLLECTING and worker.ending is not Ending.ASKED:
            self._start_failed(worker, status=status)
        elif worker.state is State.PREPARING or (worker.ahead and len(worker.ran) == 1):
            pass  # it has run nothing that is not over
        elif status != 0 and worker.ending is Ending.NONE and not worker.killed:
            problem = crash_reports.at_exit(worker, status=status, logs=logs)
            self._fixture_failed(self._apart(f"worker {worker.number}"), problem)
        self._not_ahead(worker)
        if worker.state is not State.COLLECTING:
            self._output(worker, title=f"worker {worker.number}, at its exit")
        if worker.killed and worker.ending is Ending.NONE:
            self._text.note(
                f"worker {worker.number} did not exit within {worker.timeouts.leave:g} s after its "
                "last test and was killed: a thread or a child process of a test still runs"
            )
        worker.close()

    def _cut_short(
        self, worker: WorkerHandle, unit: UnitResult, *, status: int | None, logs: str = ""
    ) -> None:
        """A unit ended before its time: a test or a fixture is the error, the rest runs again.

        The exit status is None when the worker was interrupted and has torn down.
        """
        unit.crashes += 1
        if worker.ending is Ending.ASKED:
            self._show(unit, unit.not_run("interrupted", only=worker.ordinal))
            return
        if status is None and worker.ending is Ending.NONE:  # it has told the error itself
            if not self._interrupted:
                self._text.note("Interrupted by a test: no other test starts")
            self._interrupted = True
            self._stop("interrupted", limited=True)
            return
        problem = crash_reports.crash(worker, status=status, logs=logs)
        test, ordinal = worker.test, worker.ordinal
        if test is None or ordinal is None:
            unit.fixture_crashes += 1
            self._fixture_failed(unit, problem, owner=worker.owner)
            if worker.ending is Ending.TIMEOUT and worker.phase.startswith("setUp"):
                # a second try would take as long
                self._show(unit, unit.not_run(f"{worker.phase} hung", owner=worker.owner))
        else:
            seconds = time.monotonic() - worker.since
            record = Record(test=test, outcome=Outcome.ERROR, problems=(problem,), seconds=seconds)
            self._show(unit, unit.record(ordinal, (record,)))
        if unit.fixture_crashes > 1 or unit.crashes > _CRASHES:
            self._show(unit, unit.not_run(f"its worker crashed {unit.crashes} times"))
        elif unit.open and not self._stopped and self._schedule is not None:
            self._schedule.put_back(unit)

    # Ending early

    def _act_on_interrupts(self) -> None:
        """First: finish and tear down. Second: interrupt and tear down. Third: kill.

        SIGTERM and SIGHUP leave little time for each, and none after that. What was done is said
        when it is done: whoever reads it may rely on it.
        """
        asked, before, running = self._interrupts.count, self._asked, len(self._pool.running())
        if self._interrupts.urgent:
            self._pool.hurry()
        if asked == before:
            return
        self._asked, self._interrupted = asked, True
        self._stop("interrupted", limited=True)
        if not before:
            self._text.note(
                f"Interrupted: {running} running test{'s'[: running != 1]} may finish "
                f"({self._pool.timeouts.finish:g} s); Ctrl-C again interrupts them, "
                "a third one kills"
            )
        if asked == _SECOND:
            for worker in self._pool.workers:
                worker.interrupt()
            self._text.note("Interrupted again: running tests are interrupted and torn down")
        elif asked > _SECOND:
            self._pool.kill_at = time.monotonic()

    def _stop(self, reason: str, *, limited: bool = False) -> None:
        """Start no further test; limited, do not wait for the running ones for ever."""
        self._stopped = self._stopped or reason
        if self._schedule is not None:
            self._schedule.clear()
        for worker in self._pool.workers:
            worker.ahead = None
            if worker.unit is not None:
                worker.stop(limited=limited)
            elif worker.state in (State.COLLECTING, State.PREPARING):
                worker.interrupt()

    # Recording and showing

    def _show(self, unit: UnitResult, records: Sequence[Record]) -> None:
        again = bool(unit.retries) and not self._stopped
        for record in records:
            self._text.ended(record, again=again)
        if any(record.problems for record in records) and not again:
            self._fail()

    def _fixture_failed(self, unit: UnitResult, problem: Problem, *, owner: str = "") -> None:
        """Something failed outside of any test of a class."""
        again = bool(unit.retries) and not self._stopped
        unit.fixtures.append((owner, problem))
        self._text.fixture_failed(problem, again=again)
        if not again:
            self._fail()

    def _fail(self) -> None:
        if self._options.failfast and not self._stopped:
            self._stop("-f stopped the run")  # running tests take the time they need

    def _apart(self, name: str) -> UnitResult:
        """Where to record what goes wrong outside of every unit."""
        apart = UnitResult(unit=Unit(key=name, tests=()), order=())
        self.results.units.append(apart)
        return apart

    def _output(
        self, worker: WorkerHandle, *, until: messages.Written | None = None, title: str = ""
    ) -> None:
        """Show what was printed since the last time."""
        start, worker.shown = worker.shown, until or worker.output.written()
        if output := worker.output.read(start, worker.shown):
            if worker.unit is not None:
                title, kept = worker.owner or worker.unit.unit.key, worker.unit.outputs
                if self._options.junit is not None:  # nobody else asks for it
                    kept[title] = kept.get(title, Output()) + output
            self._text.output(title, output.err, stdout=worker.output.stdout(start, worker.shown))
