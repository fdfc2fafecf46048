"""Who does what next, and how many workers there are for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrator.runner import capacity
from orchestrator.runner.member import Ending, State
from orchestrator.runner.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.runner.arguments import Options
    from orchestrator.runner.crew import Crew
    from orchestrator.runner.ledger import Account
    from orchestrator.runner.member import Member
    from orchestrator.runner.patience import Patience

_FALSE_STARTS: Final = 5  # in a row: somebody may be killing workers, so several tries are due
_OWN_FALSE_STARTS: Final = 2  # but not for a module that ends the process by itself
_WORTH_A_WORKER: Final = 0.3  # seconds; about what one takes to start


class Dispatcher:
    """Hires members and hands them units, until there are none left."""

    def __init__(self, crew: Crew, *, options: Options, patience: Patience) -> None:
        self._crew = crew
        self._options = options
        self._patience = patience
        self._schedule: Schedule | None = None  # until the tests are collected
        self._jobs = 1
        self._false_starts = 0

    def begin(self) -> None:
        """Hire the first member: the one that tells which tests there are."""
        self._crew.hire(report=True)

    def plan(
        self, accounts: Sequence[Account], *, recorded: Mapping[str, float], seed: str | None
    ) -> None:
        """The tests are collected: take over the units that are to run.

        Args:
            accounts: The units.
            recorded: How many seconds each class took last time.
            seed: What to shuffle by, or None for the longest first.
        """
        budget = capacity.memory_budget() if self._options.jobs is None else None
        self._jobs = self._options.jobs or capacity.cpus()
        self._schedule = Schedule(accounts, recorded=recorded, seed=seed, budget=budget)

    def employ(self) -> None:
        """Give idle members work, let go those for whom there is none, hire who is missing."""
        if self._schedule is None:
            return
        for member in self._crew.members:
            if member.state is not State.IDLE or member.ending is not Ending.NONE:
                continue
            account = self._schedule.next(self._crew.running())
            if account is not None:
                member.assign(account, timeout=self._options.timeout)
            elif not self._schedule:
                member.leave(self._patience)
        working = self._working()
        busy = sum(member.account is not None for member in working)
        wanted = min(self._jobs, busy + len(self._schedule))
        if self._options.jobs is None and working and self._schedule.seconds < _WORTH_A_WORKER:
            return  # by the time another one is here, the work is done
        for _ in range(len(working), wanted):
            self._crew.hire(report=False)

    def put_back(self, account: Account) -> None:
        """Run what a crash left of a unit, before anything else."""
        if self._schedule is not None:
            self._schedule.put_back(account)

    def cancel(self) -> None:
        """Start no further unit."""
        if self._schedule is not None:
            self._schedule.clear()

    def _working(self) -> list[Member]:
        """The members that are there to stay."""
        return [
            member
            for member in self._crew.members
            if member.state is not State.LEAVING and member.ending is Ending.NONE
        ]

    # Members that end before they have collected

    def started(self) -> None:
        """A member has collected."""
        self._false_starts = 0

    def start_failed(self, member: Member, *, status: int) -> bool:
        """See to it that the run goes on without a member that ended while it collected.

        Args:
            member: The member.
            status: Its exit status; a negative one is a signal.

        Returns:
            False when it cannot go on, because there is no other one.
        """
        self._false_starts += 1
        if self._false_starts < self._tries(member, status):
            if self._schedule is None:
                self._crew.hire(report=True)
        elif others := self._working():
            self._jobs = len(others)  # go on with those that did start
        else:
            return False
        return True

    def _tries(self, member: Member, status: int) -> int:
        """How many starts in a row may fail in the way of this one."""
        by_itself = status >= 0 or member.ending is Ending.TIMEOUT
        return _OWN_FALSE_STARTS if by_itself and self._schedule is None else _FALSE_STARTS
