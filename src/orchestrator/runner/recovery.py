"""After a worker's death, or a unit cut short: who is to blame, and what runs again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from orchestrator.runner import blame
from orchestrator.runner.member import Ending, State

if TYPE_CHECKING:
    from orchestrator.runner.arguments import Options
    from orchestrator.runner.bookkeeper import Bookkeeper
    from orchestrator.runner.dispatch import Dispatcher
    from orchestrator.runner.ledger import Account
    from orchestrator.runner.member import Member
    from orchestrator.runner.patience import Patience
    from orchestrator.runner.reports.text import Text
    from orchestrator.runner.salvage import Salvage
    from orchestrator.runner.shutdown import Shutdown

_CRASHES: Final = 3  # after that many reruns the class itself is the problem
_AS_ASKED: Final = (Ending.STOP, Ending.INTERRUPT, Ending.KILL)


class Recovery:
    """Sees to it that a death costs one test, and leaves nothing behind."""

    def __init__(
        self,
        bookkeeper: Bookkeeper,
        dispatcher: Dispatcher,
        shutdown: Shutdown,
        salvage: Salvage,
        *,
        text: Text,
        options: Options,
        patience: Patience,
    ) -> None:
        self._bookkeeper = bookkeeper
        self._dispatcher = dispatcher
        self._shutdown = shutdown
        self._salvage = salvage
        self._text = text
        self._options = options
        self._patience = patience

    def bury(self, member: Member) -> None:
        """A worker has ended: account for what it was doing."""
        status = member.process.bury()
        salvaged = ""
        if status != 0 and member.served:
            salvaged = self._salvage.take(pid=member.process.pid, secrets=member.secrets)
        account = member.account
        if account is not None:
            self.cut_short(member, account, status=status, salvaged=salvaged)
            self._bookkeeper.unit_left(member, account)
        elif member.state is State.COLLECTING:
            self._start_failed(member, status)
        files = member.process.output
        rest = files.read(member.shown)
        # Every worker imports the same modules: what that prints is shown once, by the first.
        if rest and (member.state is not State.COLLECTING):
            printed = files.stdout(member.shown, files.written())
            self._text.output(f"worker {member.number}, at its exit", rest.err, stdout=printed)
        if member.killed and member.ending is Ending.NONE:
            self._text.note(
                f"worker {member.number} did not exit within {self._patience.leave:g} s after its "
                "last test and was killed: a thread or a child process of a test still runs"
            )
        member.process.close()

    def cut_short(
        self,
        member: Member,
        account: Account,
        *,
        status: int | None,
        salvaged: str = "",
        trace: str = "",
    ) -> None:
        """A unit ended before its time: blame a test or a fixture, and see to the rest.

        Args:
            member: The worker that ran it.
            account: The unit.
            status: The worker's exit status; None when it was interrupted and has torn down.
            salvaged: What the logs of its services said.
            trace: Where it was interrupted.
        """
        account.crashes += 1
        if member.ending in _AS_ASKED:
            self._bookkeeper.not_run(account, "interrupted", only=member.ordinal)
            return
        timeout = self._options.timeout
        problem = blame.crash(
            member, status=status, timeout=timeout, salvaged=salvaged, trace=trace
        )
        by_itself = status is None and member.ending is Ending.NONE
        if member.ending is Ending.TIMEOUT and member.ordinal != member.hung_in:
            # What hung went on when it was looked at, and the interrupt hit something else.
            overtime = blame.overtime(member, timeout)
            self._bookkeeper.fixture_failed(account, member.owner, overtime)
        elif member.ordinal is None:
            account.fixture_crashes += not blame.from_outside(member, status)
            self._bookkeeper.fixture_failed(account, member.owner, problem)
        else:
            seconds = time.monotonic() - member.since
            self._bookkeeper.test_cut_short(account, member.ordinal, problem, seconds=seconds)
        if by_itself:
            self._shutdown.interrupted_by_test()
        self._rerun(account)

    def _rerun(self, account: Account) -> None:
        if not account.open or self._shutdown.reason:
            return
        if not self._options.rerun_crashed:
            self._bookkeeper.not_run(account, "its worker crashed (--no-rerun-crashed)")
        elif account.fixture_crashes > 1 or account.crashes > _CRASHES:
            self._bookkeeper.not_run(account, f"its worker crashed {account.crashes} times")
        else:
            self._dispatcher.put_back(account)

    def _start_failed(self, member: Member, status: int) -> None:
        if member.ending in _AS_ASKED or self._dispatcher.start_failed(member, status=status):
            return
        seconds = self._patience.collecting(self._options.timeout)
        self._shutdown.give_up(blame.failed_start(member, status=status, seconds=seconds))
