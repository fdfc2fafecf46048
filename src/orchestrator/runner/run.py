"""A run, in the parent: it imports no test code, hands units to workers, records what they say.

Whatever becomes of a worker, every collected test has an outcome in the end: the test at which it
died is an error, the others of its unit run elsewhere or are counted as not run.
"""

from __future__ import annotations

import os
import random
import sys
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.runner import crash_reports, schedule
from orchestrator.runner.crash_reports import CrashLogs
from orchestrator.runner.messages import (
    Began,
    Collected,
    Ended,
    Finished,
    FixtureBegan,
    FixtureFailed,
    NotCollected,
    ServicesUp,
)
from orchestrator.runner.pool import Interrupts, WorkerPool
from orchestrator.runner.reports.text import Text
from orchestrator.runner.results import (
    Outcome,
    Output,
    Record,
    Results,
    Status,
    Unit,
    UnitResult,
)
from orchestrator.runner.schedule import History, Schedule
from orchestrator.runner.worker_handle import Ending, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.runner.messages import Message, Written
    from orchestrator.runner.options import Options
    from orchestrator.runner.results import Problem
    from orchestrator.runner.worker_handle import WorkerHandle

_CRASHES: Final = 3  # after that many reruns the class itself is the problem
_FAILED_STARTS: Final = 5  # in a row: somebody may be killing workers, so several tries are due
_OWN_FAILED_STARTS: Final = 2  # but not for a module that ends the process by itself
_WORTH_A_WORKER: Final = 0.3  # seconds; about what one takes to start
_AS_ASKED: Final = (Ending.STOP, Ending.INTERRUPT, Ending.KILL)
_SECOND: Final = 2
_KEPT_OPTIONS: Final = ("logs", "timeline")  # places that the workers know from their environment


def run_tests(options: Options) -> int:
    """Run tests and report them. When this returns, no worker is left.

    Returns:
        0 when everything passed, 1 for failures, crashes and tests that did not run, 3 when the
        tests could not be collected, 5 when there were none, 130 after an interrupt.
    """
    text = Text(sys.stderr, stdout=sys.stdout, verbosity=options.verbosity)
    with Interrupts() as interrupts:  # one Ctrl-C too many must not cost the reports
        results = _run(options, text, interrupts=interrupts)
        text.summary(results, durations=options.durations)
        if options.junit is not None:
            from orchestrator.runner.reports import junit  # most runs need no XML

            try:
                junit.write(results, Path(options.junit))
            except OSError as error:
                text.note(f"--junit {options.junit} could not be written: {error.strerror}")
                return results.status or Status.FAILED
    return results.status


def _run(options: Options, text: Text, *, interrupts: Interrupts) -> Results:
    run_id = os.environ.get("ORCHESTRATOR_RUN") or str(uuid.uuid4())
    clock = time.perf_counter()
    with (
        closing(CrashLogs(run=run_id, folder=options.logs)) as crash_logs,
        WorkerPool(
            options, environ=_environ(options, run_id=run_id), interrupts=interrupts
        ) as pool,
    ):
        run = Run(options, pool, text, interrupts=interrupts, crash_logs=crash_logs)
        run.work()
    run.close()
    run.results.seconds = time.perf_counter() - clock
    return run.results


def _environ(options: Options, *, run_id: str) -> dict[str, str]:
    """The workers' environment.

    They share the hash seed: tests generated from a set are collected in the same order everywhere.
    """
    hash_seed = str(random.randrange(1, 2**32))  # noqa: S311 - any will do
    environ = {"PYTHONHASHSEED": hash_seed, **os.environ, "ORCHESTRATOR_RUN": run_id}
    for name in _KEPT_OPTIONS:
        if (path := getattr(options, name)) is not None:
            environ[f"ORCHESTRATOR_{name.upper()}"] = str(Path(path).absolute())
    return environ


class Run:
    """The state of one run, and what follows from everything that happens in it."""

    def __init__(
        self,
        options: Options,
        pool: WorkerPool,
        text: Text,
        *,
        interrupts: Interrupts,
        crash_logs: CrashLogs,
    ) -> None:
        self.results = Results(started=time.time())
        self._options = options
        self._pool = pool
        self._text = text
        self._interrupts = interrupts
        self._crash_logs = crash_logs
        self._history = History(Path.cwd())
        self._recorded = self._history.read().seconds
        self._seed = options.shuffle
        if self._seed == "":
            self._seed = str(random.randrange(1, 10**6))  # noqa: S311 - to be repeated, no secret
        self._schedule: Schedule | None = None  # until the tests are collected
        self._jobs = 1
        self._failed_starts = 0
        self._sharded_away = 0
        self._stopped = ""  # why no further test starts
        self._interrupted = False  # by Ctrl-C or a signal, or by a test's KeyboardInterrupt
        self._asked = 0  # how many interrupts have been acted on
        self._kill_at: float | None = None

    def work(self) -> None:
        """Run the tests, until no worker is left."""
        self._pool.start(report=True)
        while self._pool.workers:
            for worker, message in self._pool.events():
                self._handle(worker, message)
            self._act_on_interrupts()
            self._assign()
            if any(running.unit.services for running in self._pool.running()):
                self._crash_logs.prepare()
            self._text.tick(self._pool.workers)

    def close(self) -> None:
        """Record what did not run, and remember how long the rest took."""
        for unit in self.results.units:
            unit.not_run(self._stopped or "the run ended early")
        if not self._options.keep:  # a part of a class says nothing about the whole
            self._history.record(self.results.class_seconds())
        self.results.status = self._status()

    def _status(self) -> Status:
        if self._interrupted:
            return Status.INTERRUPTED
        if self._schedule is None:
            return Status.NOT_COLLECTED
        if not any(unit.order for unit in self.results.units):
            return Status.OK if self._sharded_away else Status.NOTHING_RAN
        successful = self.results.successful and not self.results.trouble
        return Status.OK if successful else Status.FAILED

    # What workers say

    def _handle(self, worker: WorkerHandle, message: Message | None) -> None:
        """Act on a message, or on the end, of a worker."""
        unit = worker.unit
        if message is None:
            self._ended(worker)
        elif isinstance(message, Collected):
            self._collected(worker, message.units)
        elif isinstance(message, NotCollected):
            self._not_collected(worker, message.text)
        elif unit is None:  # it speaks of a unit that it has left
            if isinstance(message, FixtureFailed):
                self._fixture_failed(self._apart(worker), "", message.problem)
        elif isinstance(message, Finished):
            self._finished(worker, unit, message)
        else:
            self._follow(worker, unit, message)

    def _follow(self, worker: WorkerHandle, unit: UnitResult, message: Message) -> None:
        """Note where a worker is in its unit, and what it has found out."""
        if isinstance(message, Began):
            worker.ordinal, worker.running = message.ordinal, message.title
            worker.began = message.written
        elif isinstance(message, Ended):
            if message.over:
                worker.ordinal = None
            self._show(unit.record(message.ordinal, message.records, over=message.over))
        elif isinstance(message, FixtureBegan):
            if message.owner != worker.owner:
                self._output(worker, unit, until=message.written)
                worker.owner = message.owner
                worker.class_began()
            worker.phase = message.name
        elif isinstance(message, FixtureFailed):
            self._fixture_failed(unit, message.owner, message.problem)
        elif isinstance(message, ServicesUp):
            unit.facts[message.owner] = message.facts
            worker.secrets = message.secrets

    def _finished(self, worker: WorkerHandle, unit: UnitResult, message: Finished) -> None:
        unit.seconds.update(message.seconds)
        if message.stopped == "interrupt":
            self._cut_short(worker, unit, status=None)
        elif message.stopped == "mismatch":
            self._not_run(unit, "it was collected differently")
        elif worker.ending is Ending.TIMEOUT:  # it got through in the last moment
            self._fixture_failed(unit, worker.owner, crash_reports.overtime(worker))
        if message.stopped in ("interrupt", "stop") or worker.ending is Ending.TIMEOUT:
            worker.leave()
        self._leave_unit(worker, unit)

    def _collected(self, worker: WorkerHandle, units: Sequence[Unit]) -> None:
        if worker.ending is not Ending.NONE:  # too late: an import swallowed the interrupt
            worker.kill()
            return
        self._failed_starts = 0
        worker.release()
        start, worker.shown = worker.shown, worker.output.written()
        if self._schedule is None:  # what imports print is shown once
            if printed := worker.output.read(start, worker.shown):
                stdout = worker.output.stdout(start, worker.shown)
                self._text.output("collection", printed.err, stdout=stdout)
            self._plan(units)

    def _plan(self, units: Sequence[Unit]) -> None:
        """The tests are known: decide what runs, and in which order."""
        shard, seed = self._options.shard, self._seed
        if shard is not None:
            everything = len(units)
            units, plan = schedule.in_shard(units, shard, self._history)
            self._sharded_away = everything - len(units)
            self._text.note(f"Shard {shard}: {len(units)} of {everything} classes (plan {plan})")
        if seed is not None:
            self._text.note(f"Shuffle seed: {seed} (repeat with --shuffle={seed})")
        self.results.units = [
            UnitResult(
                unit=unit,
                order=range(len(unit.tests)) if seed is None else schedule.shuffled(unit, seed),
            )
            for unit in units
        ]
        self._jobs = self._options.jobs or schedule.cpus()
        self._schedule = Schedule(
            self.results.units,
            recorded=self._recorded,
            seed=seed,
            budget=schedule.memory_budget() if self._options.jobs is None else None,
        )
        self._text.planned(self.results)

    def _not_collected(self, worker: WorkerHandle, text: str) -> None:
        worker.leave()
        if self._schedule is None:
            self.results.trouble = text
        elif worker.ending is Ending.NONE:  # else it was interrupted, and nobody needs it
            self.results.trouble = text
            self._start_failed(worker, status=0, trouble=text)

    # Who does what

    def _assign(self) -> None:
        """Give idle workers units, end those for whom there is none, start who is missing."""
        if self._schedule is None:
            return
        for worker in self._pool.workers:
            if worker.state is not State.IDLE or worker.ending is not Ending.NONE:
                continue
            if (unit := self._schedule.next(self._pool.running())) is not None:
                worker.run(unit)
            elif not self._schedule:
                worker.leave()
        staying = [worker for worker in self._pool.workers if worker.stays]
        busy = sum(worker.unit is not None for worker in staying)
        if self._options.jobs is None and staying and self._schedule.seconds < _WORTH_A_WORKER:
            return  # by the time another one is here, the work is done
        for _ in range(len(staying), min(self._jobs, busy + len(self._schedule))):
            self._pool.start(report=False)

    def _start_failed(self, worker: WorkerHandle, *, status: int, trouble: str) -> None:
        """Go on without a worker that could not collect; when there is no other, give up."""
        self._failed_starts += 1
        by_itself = status >= 0 or worker.ending is Ending.TIMEOUT
        tries = _OWN_FAILED_STARTS if by_itself and self._schedule is None else _FAILED_STARTS
        if self._failed_starts < tries:
            if self._schedule is None:
                self._pool.start(report=True)
        elif others := sum(it.stays for it in self._pool.workers):
            self._jobs = others  # go on with those that did start
        else:
            self.results.trouble = trouble
            self._stop("no worker could be started")

    # After the end of a worker, or of a unit before its time

    def _ended(self, worker: WorkerHandle) -> None:
        """A worker is dead: record what it was doing."""
        status, unit, logs = worker.reap(), worker.unit, ""
        if status != 0 and worker.served:
            logs = self._crash_logs.take(pid=worker.pid, secrets=worker.secrets)
        if unit is not None:
            self._cut_short(worker, unit, status=status, logs=logs)
            self._leave_unit(worker, unit)
        elif worker.state is State.COLLECTING and worker.ending not in _AS_ASKED:
            trouble = crash_reports.failed_start(worker, status=status)
            self._start_failed(worker, status=status, trouble=trouble)
        elif status != 0 and worker.ending is Ending.NONE and not worker.killed:
            problem = crash_reports.at_exit(worker, status=status, logs=logs)
            self._fixture_failed(self._apart(worker), "", problem)
        rest = worker.output.read(worker.shown)
        # Every worker imports the same modules: what that prints is shown once, by the first.
        if rest and worker.state is not State.COLLECTING:
            stdout = worker.output.stdout(worker.shown, worker.output.written())
            self._text.output(f"worker {worker.number}, at its exit", rest.err, stdout=stdout)
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

        Args:
            worker: The worker that ran it.
            unit: The unit.
            status: The worker's exit status; None when it was interrupted and has torn down.
            logs: What the logs of its services said.
        """
        unit.crashes += 1
        if worker.ending in _AS_ASKED:
            self._not_run(unit, "interrupted", only=worker.ordinal)
        elif status is None and worker.ending is Ending.NONE:  # it has told the error itself
            if not self._interrupted:
                self._text.note("Interrupted by a test: no other test starts")
            self._interrupted = True
            self._stop("interrupted", limited=True)
        else:
            self._blame(worker, unit, status=status, logs=logs)
            if unit.open and not self._stopped:
                self._run_again(unit)

    def _blame(
        self, worker: WorkerHandle, unit: UnitResult, *, status: int | None, logs: str
    ) -> None:
        """Record the test or the fixture at which a worker hung or died."""
        if worker.ending is Ending.TIMEOUT and worker.test is not worker.hung_test:
            # What hung went on when it was looked at, and the interrupt hit something else.
            self._fixture_failed(unit, worker.owner, crash_reports.overtime(worker))
            return
        problem = crash_reports.crash(worker, status=status, logs=logs)
        if worker.test is None or worker.ordinal is None:
            from_outside = status is not None and crash_reports.from_outside(worker, status)
            unit.fixture_crashes += not from_outside
            self._fixture_failed(unit, worker.owner, problem)
            return
        record = Record(
            test=worker.test,
            outcome=Outcome.ERROR,
            problems=(problem,),
            seconds=time.monotonic() - worker.since,
        )
        self._show(unit.record(worker.ordinal, (record,)))

    def _run_again(self, unit: UnitResult) -> None:
        if not self._options.rerun_crashed:
            self._not_run(unit, "its worker crashed (--no-rerun-crashed)")
        elif unit.fixture_crashes > 1 or unit.crashes > _CRASHES:
            self._not_run(unit, f"its worker crashed {unit.crashes} times")
        elif self._schedule is not None:
            self._schedule.put_back(unit)

    # Ending early

    def _act_on_interrupts(self) -> None:
        """First: finish and tear down. Second: interrupt and tear down. Third: kill.

        SIGTERM and SIGHUP leave little time for each, and none after that. What was done is said
        when it is done: whoever reads it may rely on it.
        """
        timeouts, asked = self._pool.timeouts, self._interrupts.count
        if self._interrupts.urgent and self._kill_at is None:
            timeouts = self._pool.hurry()
            self._kill_at = time.monotonic() + timeouts.finish + timeouts.teardown
        if asked > self._asked:
            first, self._asked, self._interrupted = not self._asked, asked, True
            running = len(self._pool.running())
            self._stop("interrupted", limited=True)
            if first:
                self._text.note(
                    f"Interrupted: {running} running test{'s'[: running != 1]} may finish "
                    f"({timeouts.finish:g} s); Ctrl-C again interrupts them, a third one kills"
                )
            if asked == _SECOND:
                for worker in self._pool.workers:
                    worker.interrupt()
                self._text.note("Interrupted again: running tests are interrupted and torn down")
            elif asked > _SECOND:
                self._kill_at = time.monotonic()
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            for worker in self._pool.workers:
                worker.kill()

    def _stop(self, reason: str, *, limited: bool = False) -> None:
        """Start no further test; limited, do not wait for the running ones for ever."""
        self._stopped = self._stopped or reason
        if self._schedule is not None:
            self._schedule.clear()
        for worker in self._pool.workers:
            if worker.state is State.RUNNING:
                worker.stop(limited=limited)
            elif worker.state is State.COLLECTING:
                worker.interrupt()

    # Recording and showing

    def _show(self, records: Sequence[Record]) -> None:
        for record in records:
            self._text.ended(record)
            if record.problems:
                self._fail()

    def _fixture_failed(self, unit: UnitResult, owner: str, problem: Problem) -> None:
        """Something failed outside of any test of a class."""
        unit.fixtures.append((owner, problem))
        self._text.fixture_failed(problem)
        self._fail()

    def _apart(self, worker: WorkerHandle) -> UnitResult:
        """Where to record what goes wrong in a worker when it runs no unit."""
        apart = UnitResult(unit=Unit(key=f"worker {worker.number}", tests=()), order=())
        self.results.units.append(apart)
        return apart

    def _not_run(self, unit: UnitResult, reason: str, *, only: int | None = None) -> None:
        """The tests without an outcome, or one of them, will have none."""
        self._show(unit.not_run(reason, only=only))

    def _fail(self) -> None:
        if self._options.failfast and not self._stopped:
            self._stop("-f stopped the run")  # running tests take the time they need

    def _output(self, worker: WorkerHandle, unit: UnitResult, *, until: Written) -> None:
        """Keep and show what a class has printed since the last time, up to some moment."""
        if output := worker.output.read(worker.shown, until):
            owner = worker.owner or unit.unit.key
            unit.outputs[owner] = unit.outputs.get(owner, Output()) + output
            stdout = worker.output.stdout(worker.shown, until)
            self._text.output(owner, output.err, stdout=stdout)
        worker.shown = until

    def _leave_unit(self, worker: WorkerHandle, unit: UnitResult) -> None:
        """A worker is done with its unit, for better or worse."""
        self._output(worker, unit, until=worker.output.written())
        worker.release()
