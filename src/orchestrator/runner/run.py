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
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.runner import schedule
from orchestrator.runner.messages import (
    Began,
    Collected,
    Ended,
    Finished,
    FixtureBegan,
    FixtureFailed,
    Prepared,
    ServicesUp,
)
from orchestrator.runner.options import Options
from orchestrator.runner.pool import Interrupts, WorkerPool, measured_workers
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
from orchestrator.runner.text_report import Text
from orchestrator.runner.worker_handle import Ending, State

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from orchestrator.runner.crash_reports import CrashLogs
    from orchestrator.runner.messages import Message, Written
    from orchestrator.runner.results import Problem
    from orchestrator.runner.worker_handle import WorkerHandle

_CRASHES: Final = 3  # after that many reruns the class itself is the problem
_FAILED_STARTS: Final = 5  # in a row: somebody may be killing workers, so several tries are due
_BY_ITSELF: Final = 3  # what the end of a process by itself counts for
_TICK: Final = 0.2  # seconds in which what has passed is seen, and a death whose signal got lost
_LOOKS: Final = 0.1  # seconds between two looks for idle processors
_IDLE: Final = 0.5  # processors with nothing to do, for a start for which nobody waits
_WORTH_A_WORKER: Final = 0.3  # seconds; about what one takes to start
_SECOND: Final = 2
_EVERYTHING: Final = ((), (), Options.start, Options.pattern)


def run_tests(options: Options) -> int:
    """Run tests and report them. When this returns, no worker is left.

    Returns:
        0 when everything passed, 1 for failures, crashes and tests that did not run, 3 when the
        tests could not be collected, 5 when there were none, 130 after an interrupt.
    """
    text = Text(sys.stderr, stdout=sys.stdout, verbosity=options.verbosity)
    with Interrupts() as interrupts:  # one Ctrl-C too many must not cost the reports
        run_id = os.environ.get("ORCHESTRATOR_RUN") or str(uuid.uuid4())
        with measured_workers(_environ(options, run_id=run_id)) as environ:
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


def _environ(options: Options, *, run_id: str) -> dict[str, str]:
    """The workers' environment.

    They share the hash seed: tests generated from a set are collected in the same order everywhere.
    """
    hash_seed = str(random.randrange(1, 2**32))  # noqa: S311 - any will do
    environ = {"PYTHONHASHSEED": hash_seed, **os.environ, "ORCHESTRATOR_RUN": run_id}
    for name in ("logs", "timeline"):
        if (path := getattr(options, name)) is not None:
            environ[f"ORCHESTRATOR_{name.upper()}"] = str(Path(path).absolute())
    return environ


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
        self._past = self._history.read()
        self._known: set[str] | None = None  # the ids of all tests there are
        self._idle = schedule.Idle()
        self._schedule: Schedule | None = None  # until the tests are collected
        self._jobs = 1  # how many units may run at a time
        self._spares = True  # whether more workers than that may start services ahead
        self._failed_starts = 0
        self._sharded_away = 0
        self._stopped = ""  # why no further test starts
        self._interrupted = False  # by Ctrl-C or a signal, or by a test's KeyboardInterrupt
        self._asked = 0  # how many interrupts have been acted on
        self._kill_at: float | None = None
        self._run_id = environ["ORCHESTRATOR_RUN"]
        self._crash_logs: CrashLogs | None = None  # until a class with services runs
        self._pool = WorkerPool(options, environ=environ, interrupts=interrupts, told=text.told)

    def work(self) -> Results:
        """Run the tests; when this returns, no worker is left."""
        clock = time.perf_counter()
        with ExitStack() as self._ending, self._pool:
            self._pool.start(report=True)
            while self._pool.workers:
                self._go_on()
        needs = (it for result in self.results.units for it in result.unit.services.values())
        if any(0 in it for it in needs):  # a server that takes no memory of the class's: the run's
            from orchestrator.environment.shared import end_run  # other suites need none of this

            end_run(self._run_id)
        for unit in self.results.units:
            unit.not_run(self._stopped or "the run ended early")
        self._remember()
        self.results.status = self._status()
        self.results.seconds = time.perf_counter() - clock
        return self.results

    def _remember(self) -> None:
        """Leave for the next run how long classes took, and what failed."""
        passed: set[str] = set()
        failed: set[str] = set()
        for unit in self.results.units:
            found = unit.failed()
            for ordinal in found.keys() | unit.records.keys():
                id_ = unit.unit.tests[ordinal].id
                if ordinal not in found:
                    passed.add(id_)
                elif found[ordinal] or not self._stopped:  # else it only had no time to run
                    failed.add(id_)
        # a part of a class says nothing about the whole
        seconds = {} if self._options.keep else self.results.class_seconds()
        self._history.record(seconds, passed=passed - failed, failed=failed, known=self._known)

    def _go_on(self) -> None:
        """Wait for something to happen, and do what follows from it."""
        looks = self._schedule is not None and self._schedule.starts_ahead
        for worker, message in self._pool.events(tick=_LOOKS if looks else _TICK):
            self._handle(worker, message)
        for worker in self._pool.workers:
            self._see_passed(worker)
        self._act_on_interrupts()
        self._assign()
        if any(running.unit.services for running in self._pool.running()):
            self._service_logs().prepare()
        self._text.tick(self._pool.workers)

    def _service_logs(self) -> CrashLogs:
        if self._crash_logs is None:
            from orchestrator.runner import crash_reports

            self._crash_logs = crash_reports.CrashLogs(run=self._run_id, folder=self._options.logs)
            self._ending.callback(self._crash_logs.close)
        return self._crash_logs

    def _status(self) -> Status:
        if self._interrupted:
            return Status.INTERRUPTED
        if self._schedule is None:
            return Status.NOT_COLLECTED
        if not any(unit.order for unit in self.results.units):
            return Status.OK if self._sharded_away else Status.NOTHING_RAN
        return Status.OK if self.results.successful else Status.FAILED

    # What workers say

    def _see_passed(self, worker: WorkerHandle) -> None:
        """Record what has passed: no messages tell of it."""
        if (unit := worker.unit) is not None:
            for ordinal, seconds in worker.passed():
                test = unit.unit.tests[ordinal]
                record = Record(test=test, outcome=Outcome.OK, seconds=seconds)
                self._show(unit, unit.record(ordinal, (record,)))

    def _handle(self, worker: WorkerHandle, message: Message | None) -> None:
        """Act on a message, or on the end, of a worker."""
        self._see_passed(worker)
        unit = worker.unit
        if message is None:
            self._ended(worker)
        elif isinstance(message, Collected):
            self._collected(worker, message)
        elif isinstance(message, Prepared):
            self._prepared(worker, message)
        elif isinstance(message, FixtureFailed):
            unit = unit or self._apart(f"worker {worker.number}")
            self._fixture_failed(unit, message.owner, message.problem)
        elif unit is not None:  # else it speaks of one that it has left
            self._follow(worker, unit, message)

    def _follow(self, worker: WorkerHandle, unit: UnitResult, message: Message) -> None:
        """Note where a worker is in its unit, and what it has found out.

        What ran when the time was up is the error, also where it goes on when it is looked at.
        """
        in_time = worker.ending is not Ending.TIMEOUT
        worker.up |= not isinstance(message, FixtureBegan)
        if isinstance(message, Began):
            worker.inner = message.ordinal, message.title
        elif isinstance(message, Ended) and (in_time or message.ordinal != worker.ordinal):
            self._show(unit, unit.record(message.ordinal, message.records, over=message.over))
        elif isinstance(message, FixtureBegan) and in_time:
            if message.owner != worker.owner:
                self._output(worker, until=message.written)
                worker.owner = message.owner
                worker.class_began()
            worker.phase = message.name
        elif isinstance(message, ServicesUp):
            unit.facts[message.owner] = message.facts
            worker.secrets = message.secrets
        elif isinstance(message, Finished):
            self._finished(worker, unit, message)

    def _finished(self, worker: WorkerHandle, unit: UnitResult, message: Finished) -> None:
        unit.seconds.update(message.seconds)
        if message.stopped == "mismatch":
            self._show(unit, unit.not_run("it was collected differently"))
        elif message.stopped == "interrupt" or worker.ending is Ending.TIMEOUT:
            self._cut_short(worker, unit, status=None)
            worker.leave()
        elif message.stopped == "stop":
            worker.leave()
        self._output(worker)
        worker.release()
        self._retry(unit)

    def _retry(self, unit: UnitResult) -> None:
        """When all of a unit is over, what failed may run again, in a worker new to it."""
        if self._schedule is not None and not self._stopped and unit.reopen():
            self._schedule.put_back(unit, last=True)

    def _prepared(self, worker: WorkerHandle, message: Prepared) -> None:
        """What could be done ahead is done, unless this worker has collected other tests."""
        worker.release()
        if message.trouble:
            self._not_ahead(worker)
            worker.leave()

    def _not_ahead(self, worker: WorkerHandle) -> None:
        """What a worker was to run, another one does, and nothing is started ahead any more."""
        unit, worker.ahead = worker.ahead, None
        if unit is not None and self._schedule is not None:
            self._spares = False
            if not self._stopped:
                self._schedule.put_back(unit)

    def _collected(self, worker: WorkerHandle, message: Collected) -> None:
        if message.trouble and worker.spare:
            self._spares = False
            worker.leave()
            return
        if message.trouble:
            worker.leave()
            if self._schedule is None:
                self._trouble(message.trouble)
            elif worker.ending is Ending.NONE:  # else it was interrupted, and nobody needs it
                self._trouble(message.trouble)
                self._start_failed(worker, status=0)
            return
        if worker.ending is not Ending.NONE:  # too late: an import swallowed the interrupt
            worker.kill()
            return
        self._failed_starts = 0
        worker.release()
        if self._schedule is None:
            self._output(worker, title="collection")
            self._plan(message.units)
        else:  # what imports print is shown once
            worker.shown = worker.output.written()

    def _plan(self, units: Sequence[Unit]) -> None:
        """The tests are known: decide what runs, and in which order."""
        options, shard, seed = self._options, self._options.shard, self._options.shuffle
        if (options.names, options.keep, options.start, options.pattern) == _EVERYTHING:
            self._known = {test.id for unit in units for test in unit.tests}
        everything = units
        before: Collection[str] = frozenset(self._past.failed)
        if shard is not None:
            units, plan, before = schedule.in_shard(everything, shard, self._history)
            self._sharded_away = len(everything) - len(units)
            classes = f"{len(units)} of {len(everything)} classes"
            self._text.note(f"Shard {shard}: {classes} (plan {plan})")
        failed = self._failed_before(everything, before) if options.failed else {}
        if seed is not None:
            seed = seed or str(random.randrange(1, 10**6))  # noqa: S311 - no secret
            self._text.note(f"Shuffle seed: {seed} (repeat with --shuffle={seed})")
        for unit in units:
            order = range(len(unit.tests)) if seed is None else schedule.shuffled(unit, seed)
            if failed and options.failed == "only":
                order = [ordinal for ordinal in order if ordinal in failed.get(unit.key, ())]
            elif unit.key in failed:
                order = schedule.reordered(unit, order, first=failed[unit.key])
            if order:
                result = UnitResult(unit=unit, order=order, retries=options.retries)
                self.results.units.append(result)
        self._jobs = self._options.jobs or schedule.cpus()
        free = schedule.memory_budget()
        self._schedule = Schedule(
            [result for result in self.results.units if result.order],
            recorded=self._past.seconds,
            seed=seed,
            budget=free if self._options.jobs is None else None,
            ahead=free,
            first=failed,
        )
        self._text.planned(self.results)

    def _failed_before(self, units: Sequence[Unit], ids: Collection[str]) -> dict[str, list[int]]:
        """The ordinals of what failed when it last ran, by unit; empty when nothing did."""
        found = {unit.key: places for unit in units if (places := schedule.failed_in(unit, ids))}
        here = {unit.tests[ordinal].id for unit in units for ordinal in found.get(unit.key, ())}
        count, gone = len(here), sorted(it for it in {*ids} - here if not schedule.is_import(it))
        text = f"{count} test{'s'[: count != 1]} failed when last run"
        self._text.note(text if count else "No test failed when last run: every test runs")
        if gone:
            self._text.note(f"Not among these tests: {', '.join(gone)}")
        return found

    # Who does what

    def _assign(self) -> None:
        """Give idle workers units, end those for whom there is none, start who is missing."""
        if self._schedule is None:
            return
        staying = [worker for worker in self._pool.workers if worker.stays]
        for worker in staying:
            if worker.state is State.IDLE and worker.ahead and self._free:
                worker.run(worker.ahead)
        for worker in staying:
            if worker.state is State.IDLE and worker.ahead is None:
                self._assign_one(self._schedule, worker)
        staying = [worker for worker in staying if worker.stays]
        busy = sum(worker.unit is not None or worker.ahead is not None for worker in staying)
        waiting = len(self._schedule)
        if self._options.jobs is None and staying and self._schedule.seconds < _WORTH_A_WORKER:
            return  # by the time another one is here, the work is done
        for _ in range(len(staying), min(self._jobs, busy + waiting)):
            self._pool.start(report=False)
        if self._wants_spare(self._schedule, staying):
            self._pool.start(report=False, spare=True)
            self._idle.restart()

    def _assign_one(self, waiting: Schedule, worker: WorkerHandle) -> None:
        """Have an idle worker run a unit, or start services of one whose turn has not come."""
        running, ahead = self._pool.running(), self._pool.ahead()
        if (
            waiting.starts_ahead
            and ((self._free and ahead) or self._may_start_ahead())  # the first to be ready runs
            and (unit := waiting.next_ahead([*running, *ahead], ran=worker.ran))
        ):
            worker.prepare(unit)
            self._idle.restart()
        elif self._free and (unit := waiting.next([*running, *ahead], ran=worker.ran)):
            worker.run(unit)
        elif waiting.has_none_for(worker.ran):
            worker.leave()

    @property
    def _free(self) -> bool:
        """Whether one more unit may run."""
        return len(self._pool.running()) < self._jobs

    def _may_start_ahead(self, *, beside_tests: bool = True) -> bool:
        """Whether to do what nobody waits for yet: where a processor is idle.

        Services start while tests run, not beside those of a class that somebody waits for.
        """
        waits = self._spares and not self._free
        if beside_tests:
            waits = waits and any(worker.up for worker in self._pool.workers)
        return waits and self._idle.processors >= _IDLE

    def _wants_spare(self, waiting: Schedule, staying: Sequence[WorkerHandle]) -> bool:
        """Whether one more worker than may run units is of use, to start services ahead."""
        return (
            waiting.starts_ahead
            and all(worker.unit is not None for worker in staying)
            and len(staying) < 2 * self._jobs
            and self._may_start_ahead(beside_tests=False)  # it collects while services start
        )

    def _start_failed(self, worker: WorkerHandle, *, status: int) -> None:
        """Go on without a worker that could not collect; when there is no other, give up."""
        from orchestrator.runner import crash_reports

        if worker.spare:
            self._spares = False
            return
        by_itself = status >= 0 or worker.ending is Ending.TIMEOUT
        self._failed_starts += _BY_ITSELF if by_itself else 1
        if self._failed_starts < _FAILED_STARTS:
            if self._schedule is None:
                self._pool.start(report=True)
        elif others := sum(it.stays for it in self._pool.workers):
            self._jobs = others  # go on with those that did start
        else:
            if worker.state is State.COLLECTING:  # else it has told why
                self._trouble(crash_reports.failed_start(worker, status=status))
            self._stop("no worker could be started")

    # After the end of a worker, or of a unit before its time

    def _ended(self, worker: WorkerHandle) -> None:
        """A worker is dead: record what it was doing."""
        status, unit, logs = worker.reap(), worker.unit, ""
        unused = worker.ahead is not None and len(worker.ran) == 1
        if status != 0 and worker.served:
            logs = self._service_logs().take(pid=worker.pid, secrets=worker.secrets)
        if unit is not None:
            self._cut_short(worker, unit, status=status, logs=logs)
            self._output(worker)
            worker.release()
            self._retry(unit)
        elif worker.state is State.COLLECTING and worker.ending is not Ending.ASKED:
            self._start_failed(worker, status=status)
        elif unused or worker.state is State.PREPARING:
            pass  # it has run nothing that is not over
        elif status != 0 and worker.ending is Ending.NONE and not worker.killed:
            from orchestrator.runner import crash_reports

            problem = crash_reports.at_exit(worker, status=status, logs=logs)
            self._fixture_failed(self._apart(f"worker {worker.number}"), "", problem)
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

        Args:
            worker: The worker that ran it.
            unit: The unit.
            status: The worker's exit status; None when it was interrupted and has torn down.
            logs: What the logs of its services said.
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
        from orchestrator.runner import crash_reports

        problem = crash_reports.crash(worker, status=status, logs=logs)
        if worker.test is None or worker.ordinal is None:
            unit.fixture_crashes += 1
            self._fixture_failed(unit, worker.owner, problem)
            if worker.ending is Ending.TIMEOUT and worker.phase.startswith("setUp"):
                # a second try would take as long
                self._show(unit, unit.not_run(f"{worker.phase} hung", owner=worker.owner))
        else:
            seconds = time.monotonic() - worker.since
            record = Record(
                test=worker.test, outcome=Outcome.ERROR, problems=(problem,), seconds=seconds
            )
            self._show(unit, unit.record(worker.ordinal, (record,)))
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

    def _fixture_failed(self, unit: UnitResult, owner: str, problem: Problem) -> None:
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

    def _trouble(self, text: str) -> None:
        """The tests could not be collected, or not by this worker."""
        from orchestrator.runner import crash_reports

        problem = crash_reports.not_collected(text)
        self._fixture_failed(self._apart("collection"), "", problem)

    def _output(
        self, worker: WorkerHandle, *, until: Written | None = None, title: str = ""
    ) -> None:
        """Show what was printed since the last time; what a class has printed is kept, too."""
        until = until or worker.output.written()
        if output := worker.output.read(worker.shown, until):
            if worker.unit is not None:
                title = worker.owner or worker.unit.unit.key
                kept = worker.unit.outputs
                kept[title] = kept.get(title, Output()) + output
            stdout = worker.output.stdout(worker.shown, until)
            self._text.output(title, output.err, stdout=stdout)
        worker.shown = until
