"""The parent: it imports no test code, listens to its workers, and ends when none is left."""

from __future__ import annotations

import os
import random
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.runner import briefing, schedule
from orchestrator.runner.bookkeeper import Bookkeeper
from orchestrator.runner.crew import Crew
from orchestrator.runner.dispatch import Dispatcher
from orchestrator.runner.durations import FOLDER, Durations
from orchestrator.runner.ledger import Account, Ledger
from orchestrator.runner.member import Ending, State
from orchestrator.runner.messages import Collected, NotCollected
from orchestrator.runner.progress import Progress
from orchestrator.runner.recovery import Recovery
from orchestrator.runner.run import FAILED, INTERRUPTED, NOT_COLLECTED, NOTHING_RAN, OK, Run
from orchestrator.runner.salvage import Salvage
from orchestrator.runner.shutdown import Shutdown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.runner.arguments import Options
    from orchestrator.runner.interrupts import Interrupts
    from orchestrator.runner.member import Member
    from orchestrator.runner.messages import Message
    from orchestrator.runner.output import Written
    from orchestrator.runner.patience import Patience
    from orchestrator.runner.reports.text import Text
    from orchestrator.runner.unit import Unit


def run(options: Options, text: Text, *, interrupts: Interrupts, patience: Patience) -> Run:
    """Run everything. When this returns, no worker is left."""
    started, clock = time.time(), time.perf_counter()
    run_id = os.environ.get("ORCHESTRATOR_RUN") or str(uuid.uuid4())
    with (
        closing(Salvage(run=run_id, folder=options.logs)) as salvage,
        Crew(
            briefing.setup(options, patience=patience),
            environ=briefing.environ(options, run_id=run_id),
            patience=patience,
            interrupts=interrupts,
        ) as crew,
    ):
        parent = Parent(crew, salvage, text=text, options=options, patience=patience)
        parent.listen(interrupts)
    parent.close()
    return Run(
        ledger=parent.ledger,
        started=started,
        seconds=time.perf_counter() - clock,
        status=parent.status,
        trouble=parent.trouble,
    )


class Parent:
    """One run.

    Attributes:
        ledger: The books; without a unit until the tests are collected.
    """

    def __init__(
        self, crew: Crew, salvage: Salvage, *, text: Text, options: Options, patience: Patience
    ) -> None:
        self.ledger = Ledger([])
        self._crew = crew
        self._salvage = salvage
        self._text = text
        self._options = options
        self._patience = patience
        self._durations = Durations(Path.cwd() / FOLDER)
        self._recorded = self._durations.read().seconds
        self._seed = _chosen_seed(options)
        self._collected = False
        self._sharded_away = 0
        self._dispatcher = Dispatcher(crew, options=options, patience=patience)
        self._shutdown = Shutdown(crew, self._dispatcher, text=text, patience=patience)
        bookkeeper = Bookkeeper(text, failed=self._failed)
        self._recovery = Recovery(
            bookkeeper,
            self._dispatcher,
            self._shutdown,
            salvage,
            text=text,
            options=options,
            patience=patience,
        )
        self._progress = Progress(
            bookkeeper, self._recovery, timeout=options.timeout, patience=patience
        )

    def listen(self, interrupts: Interrupts) -> None:
        """Run the tests, until no worker is left."""
        self._dispatcher.begin()
        while self._crew.members:
            for member, message in self._crew.events():
                self._heed(member, message)
            self._shutdown.heed(interrupts)
            self._heed_deadlines()
            self._dispatcher.employ()
            if any(account.unit.services for account in self._crew.running()):
                self._salvage.prepare()
            self._text.tick(self._crew.members)

    def close(self) -> None:
        """Book what did not run, and remember how long the rest took."""
        self.ledger.close(self._shutdown.reason or "the run ended early")
        if not self._options.keep:  # a part of a class says nothing about the whole
            self._durations.record(self.ledger.seconds())

    @property
    def trouble(self) -> str:
        """Why the tests could not be collected, or empty."""
        return self._shutdown.trouble

    @property
    def status(self) -> int:
        """The exit status."""
        if self._shutdown.interrupted:
            return INTERRUPTED
        if not self._collected:
            return NOT_COLLECTED
        if not self.ledger.collected:
            return OK if self._sharded_away else NOTHING_RAN
        return OK if self.ledger.successful and not self.trouble else FAILED

    def _heed(self, member: Member, message: Message | None) -> None:
        account = member.account
        if message is None:
            self._recovery.bury(member)
        elif isinstance(message, Collected):
            if member.ending is not Ending.NONE:  # too late: an import swallowed the interrupt
                member.kill()
                return
            self._dispatcher.started()
            member.state, member.deadline = State.IDLE, None
            start, member.shown = member.shown, member.process.output.written()
            if not self._collected:  # what imports print is shown once
                self._show_collection(member, start)
                self._plan(message.units)
        elif isinstance(message, NotCollected):
            self._heed_not_collected(member, message.text)
        elif account is not None:
            self._progress.heed(member, account, message)

    def _heed_not_collected(self, member: Member, text: str) -> None:
        member.leave(self._patience)
        if not self._collected:
            self._shutdown.trouble = text
        elif member.ending is Ending.NONE:  # else it was interrupted, and nobody needs it
            self._shutdown.trouble = text
            if not self._dispatcher.start_failed(member, status=0):
                self._shutdown.give_up(text)

    def _heed_deadlines(self) -> None:
        now = time.monotonic()
        for member in self._crew.members:
            if member.state is State.COLLECTING and member.deadline is None:
                seconds = self._patience.collecting(self._options.timeout)
                member.deadline = None if seconds is None else member.since + seconds
            if member.deadline is not None and member.deadline <= now:
                member.time_out(self._patience)

    def _failed(self) -> None:
        if self._options.failfast:
            self._shutdown.fail_fast()

    def _show_collection(self, member: Member, start: Written) -> None:
        files = member.process.output
        if printed := files.read(start, member.shown):
            stdout = files.stdout(start, member.shown)
            self._text.output("collection", printed.err, stdout=stdout)

    def _plan(self, units: Sequence[Unit]) -> None:
        """The tests are known: decide what runs, and in which order."""
        self._collected = True
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
        self.ledger = Ledger([Account(unit=unit, order=self._order(unit)) for unit in units])
        self._dispatcher.plan(self.ledger.accounts, recorded=self._recorded, seed=self._seed)
        self._text.planned(self.ledger)

    def _order(self, unit: Unit) -> Sequence[int]:
        if self._seed is None:
            return range(len(unit.tests))
        return schedule.shuffled(unit, self._seed)


def _chosen_seed(options: Options) -> str | None:
    fresh = str(random.randrange(1, 10**6))  # noqa: S311 - to be repeated, not to be secret
    return fresh if options.shuffle == "" else options.shuffle
