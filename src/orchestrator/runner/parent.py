"""The parent: it imports no test code, hands units to workers and keeps the books."""

from __future__ import annotations

import os
import random
import time
import uuid
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.runner import blame, capacity, schedule, services
from orchestrator.runner.crew import Crew
from orchestrator.runner.durations import FOLDER, Durations
from orchestrator.runner.interrupts import Interrupts
from orchestrator.runner.ledger import Account, Ledger
from orchestrator.runner.member import Ending, Member, State
from orchestrator.runner.patience import Patience
from orchestrator.runner.protocol import (
    Began,
    Collected,
    Ended,
    Finished,
    FixtureBegan,
    FixtureFailed,
    Mismatch,
    NotCollected,
    Outcome,
    ServicesUp,
    Setup,
)
from orchestrator.runner.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.runner.arguments import Options
    from orchestrator.runner.protocol import Message, Problem, Unit
    from orchestrator.runner.reports.text import Text

OK: Final = 0
FAILED: Final = 1
NOT_COLLECTED: Final = 3
NOTHING_RAN: Final = 5
INTERRUPTED: Final = 130

_FALSE_STARTS: Final = 5  # in a row: somebody may be killing workers, so several tries are due
_OWN_FALSE_STARTS: Final = 2  # but not for a module that ends the process by itself
_SECOND: Final = 2
_WORTH_A_WORKER: Final = 0.3  # seconds; about what one takes to start
_CRASHES: Final = 3  # after that many reruns the class itself is the problem


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run leaves for the reports.

    Attributes:
        started: Seconds since the epoch.
        seconds: The wall time.
        status: The exit status.
        trouble: Why the tests could not be collected, or empty.
    """

    ledger: Ledger
    started: float
    seconds: float
    status: int
    trouble: str


class Parent:
    """One run."""

    def __init__(self, options: Options, text: Text, *, patience: Patience | None = None) -> None:
        self._options = options
        self._text = text
        self._patience = patience or Patience()
        self._durations = Durations(Path.cwd() / FOLDER)
        self._recorded = self._durations.read().seconds
        self._run_id = os.environ.get("ORCHESTRATOR_RUN") or str(uuid.uuid4())
        self._seed = self._chosen_seed()
        self._ledger = Ledger([])
        self._schedule = Schedule([], recorded={}, seed=None, budget=None)
        self._jobs = 1
        self._collected = False
        self._sharded_away = 0
        self._false_starts = 0
        self._salvage = services.Salvage(run=self._run_id, folder=options.logs)
        self._trouble = ""
        self._stopping = ""  # why no further test starts
        self._asked = 0  # how often somebody asked to stop

    def run(self) -> Run:
        """Run everything. When this returns, no worker is left."""
        started, clock = time.time(), time.perf_counter()
        with (
            closing(self._salvage),
            Interrupts() as interrupts,
            Crew(
                _setup(self._options),
                environ=self._environ(),
                patience=self._patience,
                interrupts=interrupts,
            ) as crew,
        ):
            self._crew = crew
            crew.hire(report=True)
            while crew.members:
                for member, message in crew.events():
                    self._heed(member, message)
                self._heed_interrupts(interrupts.count)
                self._heed_deadlines()
                self._employ()
                if any(account.unit.services for account in self._running()):
                    self._salvage.prepare()
                self._text.tick(crew.members)
        self._ledger.close(self._stopping or "the run ended early")
        self._remember()
        return Run(
            ledger=self._ledger,
            started=started,
            seconds=time.perf_counter() - clock,
            status=self._status(),
            trouble=self._trouble,
        )

    def _status(self) -> int:
        if self._asked:
            return INTERRUPTED
        if not self._collected:
            return NOT_COLLECTED
        if not self._ledger.collected:
            return OK if self._sharded_away else NOTHING_RAN
        return OK if self._ledger.successful and not self._trouble else FAILED

    # What workers say

    def _heed(self, member: Member, message: Message | None) -> None:
        account = member.account
        if message is None:
            self._bury(member)
        elif isinstance(message, Collected):
            if member.ending is not Ending.NONE:  # too late: an import swallowed the interrupt
                member.kill()
                return
            self._false_starts = 0
            member.state, member.deadline = State.IDLE, None
            if not self._collected:
                self._plan(message.units, member)
        elif isinstance(message, NotCollected):
            self._trouble = message.text
            member.leave(self._patience)
        elif account is not None:
            self._heed_running(member, account, message)

    def _heed_running(self, member: Member, account: Account, message: Message) -> None:
        if isinstance(message, Mismatch):
            problem = blame.mismatch(member, message.text)
            self._fixture_failed(account, account.unit.tests[0].owner, problem)
            self._leave_open(account, "it was collected differently")
            self._release(member, account)
        elif isinstance(message, FixtureBegan):
            if message.owner != member.owner:
                self._take_output(member, account, until=message.offset)
                member.owner = message.owner
                member.restart_clock(self._options.timeout)
            member.phase = message.name
        elif isinstance(message, FixtureFailed):
            self._fixture_failed(account, message.owner, message.problem)
        elif isinstance(message, ServicesUp):
            account.facts[message.owner] = message.facts
            member.secrets = message.secrets
        elif isinstance(message, Began):
            member.ordinal, member.offset = message.ordinal, message.offset
        elif isinstance(message, Ended):
            member.ordinal = None
            self._book(account, message)
        elif isinstance(message, Finished):
            self._finished(member, account, message)

    def _finished(self, member: Member, account: Account, message: Finished) -> None:
        account.seconds.update(message.seconds)
        if message.stopped == "interrupt":
            member.phase = message.place or member.phase
            self._cut_short(member, account, status=None)
            member.leave(self._patience)
        elif member.ending is Ending.TIMEOUT:  # it got through in the last moment
            self._fixture_failed(
                account, member.owner, blame.overtime(member, self._options.timeout)
            )
            member.leave(self._patience)
        elif message.stopped == "stop":
            member.leave(self._patience)
        self._release(member, account)

    def _book(self, account: Account, ended: Ended) -> None:
        record = account.enter(ended)
        if record is None:
            return
        self._text.ended(record)
        if record.problems:
            self._failed()

    def _fixture_failed(self, account: Account, owner: str, problem: Problem) -> None:
        account.fixtures.append((owner, problem))
        self._text.fixture_failed(problem)
        self._failed()

    def _failed(self) -> None:
        if self._options.failfast and not self._stopping:
            self._stop("-f stopped the run", patience=None)

    def _release(self, member: Member, account: Account) -> None:
        """The member is done with the unit, for better or worse."""
        self._take_output(member, account, until=member.process.output_size())
        member.account, member.ordinal, member.deadline = None, None, None
        if member.state is State.RUNNING:
            member.state = State.IDLE

    def _take_output(self, member: Member, account: Account, *, until: int) -> None:
        """Book and show what a class has printed."""
        output = member.process.output(member.shown, until)
        member.shown = max(member.shown, until)
        if output:
            owner = member.owner or account.unit.key
            account.outputs[owner] = account.outputs.get(owner, "") + output
            self._text.output(owner, output)

    # What becomes of a worker

    def _bury(self, member: Member) -> None:
        """A worker has ended: account for what it was doing."""
        status = member.process.bury()
        salvaged = ""
        if status != 0 and member.served:
            salvaged = self._salvage.take(pid=member.process.pid, secrets=member.secrets)
        account = member.account
        if account is not None:
            self._cut_short(member, account, status=status, salvaged=salvaged)
            self._release(member, account)
        elif member.state is State.COLLECTING:
            self._not_started(member, status)
        rest = member.process.output(member.shown)
        # Every worker imports the same modules: what that prints is shown once, by the first.
        if rest and (member.state is not State.COLLECTING):
            self._text.output(f"worker {member.number}, at its exit", rest)
        if member.killed and member.ending is Ending.NONE:
            self._text.note(
                f"worker {member.number} did not exit within {self._patience.leave:g} s after its "
                "last test and was killed: a thread or a child process of a test still runs"
            )
        member.process.close()

    def _cut_short(
        self, member: Member, account: Account, *, status: int | None, salvaged: str = ""
    ) -> None:
        """A unit ended before its time: blame a test or a fixture, and see to the rest."""
        account.crashes += 1
        asked = member.ending in (Ending.STOP, Ending.INTERRUPT, Ending.KILL)
        if asked:
            self._leave_open(account, "interrupted", only=member.ordinal)
            return
        problem = blame.crash(
            member, status=status, timeout=self._options.timeout, salvaged=salvaged
        )
        if member.ending is Ending.TIMEOUT and member.ordinal != member.hung_in:
            # What hung went on when it was looked at, and the interrupt hit something else.
            self._fixture_failed(
                account, member.owner, blame.overtime(member, self._options.timeout)
            )
        elif member.ordinal is None:
            account.fixture_crashes += not blame.from_outside(member, status)
            self._fixture_failed(account, member.owner, problem)
        else:
            seconds = time.monotonic() - member.since
            self._book(
                account,
                Ended(
                    ordinal=member.ordinal,
                    outcome=Outcome.ERROR,
                    problems=(problem,),
                    reason="",
                    seconds=seconds,
                ),
            )
        self._rerun(account)

    def _rerun(self, account: Account) -> None:
        if not account.open or self._stopping:
            return
        if not self._options.rerun_crashed:
            self._leave_open(account, "its worker crashed (--no-rerun-crashed)")
        elif account.fixture_crashes > 1 or account.crashes > _CRASHES:
            self._leave_open(account, f"its worker crashed {account.crashes} times")
        else:
            self._schedule.put_back(account)

    def _leave_open(self, account: Account, reason: str, *, only: int | None = None) -> None:
        for ordinal in account.open:
            if only is None or ordinal == only:
                ended = Ended(
                    ordinal=ordinal, outcome=Outcome.NOT_RUN, problems=(), reason=reason, seconds=0
                )
                self._book(account, ended)

    def _not_started(self, member: Member, status: int) -> None:
        if member.ending in (Ending.STOP, Ending.INTERRUPT, Ending.KILL):
            return
        self._false_starts += 1
        if self._false_starts < self._tries(member, status):
            if not self._collected:
                self._crew.hire(report=True)
        elif others := [it for it in self._crew.members if it.ending is Ending.NONE]:
            self._jobs = len(others)  # go on with those that did start
        else:
            said = blame.failed_start(member, status=status, timeout=self._options.timeout)
            self._trouble = said
            self._stop("no worker could be started", patience=None)

    def _tries(self, member: Member, status: int) -> int:
        """How many starts in a row may fail in the way of this one."""
        by_itself = status >= 0 or member.ending is Ending.TIMEOUT
        return _OWN_FALSE_STARTS if by_itself and not self._collected else _FALSE_STARTS

    # Who does what next

    def _plan(self, units: Sequence[Unit], member: Member) -> None:
        """The tests are known: decide what runs, and in which order."""
        self._collected = True
        printed = member.process.output(0)
        member.shown = member.process.output_size()
        if printed:
            self._text.output("collection", printed)
        shard = self._options.shard
        if shard is not None:
            everything = units
            units, plan = schedule.in_shard(units, shard, self._durations)
            self._sharded_away = len(everything) - len(units)
            self._text.note(
                f"Shard {shard}: {len(units)} of {len(everything)} classes (plan {plan})"
            )
        if self._seed is not None:
            self._text.note(f"Shuffle seed: {self._seed} (repeat with --shuffle={self._seed})")
        self._ledger = Ledger([Account(unit=unit, order=self._order(unit)) for unit in units])
        budget = capacity.memory_budget() if self._options.jobs is None else None
        self._jobs = self._options.jobs or capacity.cpus()
        self._schedule = Schedule(
            self._ledger.accounts, recorded=self._recorded, seed=self._seed, budget=budget
        )
        self._text.planned(self._ledger)

    def _order(self, unit: Unit) -> Sequence[int]:
        if self._seed is None:
            return range(len(unit.tests))
        return schedule.shuffled(unit, self._seed)

    def _employ(self) -> None:
        """Give idle members work, let go those for whom there is none, hire who is missing."""
        if not self._collected:
            return
        for member in self._crew.members:
            if member.state is not State.IDLE or member.ending is not Ending.NONE:
                continue
            account = self._schedule.next(self._running())
            if account is not None:
                member.assign(account, timeout=self._options.timeout)
            elif not self._schedule:
                member.leave(self._patience)
        working = sum(
            member.state is not State.LEAVING and member.ending is Ending.NONE
            for member in self._crew.members
        )
        wanted = min(self._jobs, len(self._running()) + len(self._schedule))
        if self._options.jobs is None and working and self._schedule.seconds < _WORTH_A_WORKER:
            return  # by the time another one is here, the work is done
        for _ in range(working, wanted):
            self._crew.hire(report=False)

    def _running(self) -> list[Account]:
        return [member.account for member in self._crew.members if member.account is not None]

    def _heed_deadlines(self) -> None:
        now = time.monotonic()
        for member in self._crew.members:
            if member.state is State.COLLECTING and member.deadline is None:
                timeout = self._options.timeout
                member.deadline = None if timeout is None else member.since + timeout
            if member.deadline is not None and member.deadline <= now:
                member.time_out(self._patience)

    def _heed_interrupts(self, count: int) -> None:
        """First: finish and tear down. Second: interrupt and tear down. Third: kill."""
        if count <= self._asked:
            return
        self._asked = count
        running = len(self._running())
        if count == 1:
            self._text.note(
                f"Interrupted: {running} running test{'s'[: running != 1]} may finish; "
                "Ctrl-C again interrupts them, a third one kills"
            )
        elif count == _SECOND:
            self._text.note("Interrupted again: running tests are interrupted and torn down")
        self._stop("interrupted", patience=self._patience)
        for member in self._crew.members:
            if count == _SECOND:
                member.interrupt(self._patience)
            elif count > _SECOND:
                member.kill()

    def _stop(self, why: str, *, patience: Patience | None) -> None:
        """Start no further test; with patience, do not wait for the running ones for ever."""
        self._stopping = self._stopping or why
        self._schedule.clear()
        for member in self._crew.members:
            if member.state is State.RUNNING:
                member.stop(patience)
            elif member.state is State.COLLECTING:
                member.interrupt(self._patience)

    # What the run starts from and leaves

    def _chosen_seed(self) -> str | None:
        seed = self._options.shuffle
        fresh = str(random.randrange(1, 10**6))  # noqa: S311 - to be repeated, not to be secret
        return fresh if seed == "" else seed

    def _environ(self) -> dict[str, str]:
        """The workers' environment.

        They share the run's label, and the hash seed: tests generated from a set are collected in
        the same order everywhere.
        """
        hash_seed = str(random.randrange(1, 2**32))  # noqa: S311 - any will do
        environ = {"PYTHONHASHSEED": hash_seed, **os.environ}
        if self._options.logs is not None:
            environ["ORCHESTRATOR_LOGS"] = str(self._options.logs.absolute())
        if self._options.timeline is not None:
            environ["ORCHESTRATOR_TIMELINE"] = str(self._options.timeline.absolute())
        return environ | {"ORCHESTRATOR_RUN": self._run_id}

    def _remember(self) -> None:
        """Keep how long each class took, if all of it ran."""
        if self._options.keep:
            return
        seconds: dict[str, float] = {}
        for account in self._ledger.accounts:
            ran = all(record.outcome is not Outcome.NOT_RUN for record in account.records.values())
            if ran and not account.crashes:
                seconds |= account.seconds
        self._durations.record(seconds)


def _setup(options: Options) -> Setup:
    return Setup(
        names=options.names,
        start=options.start,
        pattern=options.pattern,
        top=options.top,
        keep=options.keep,
        failfast=options.failfast,
        buffer=options.buffer,
        tb_locals=options.tb_locals,
        report=False,
    )
