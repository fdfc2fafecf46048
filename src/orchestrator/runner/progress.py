"""What a worker tells about the unit it runs, and what follows from each message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.runner import blame
from orchestrator.runner.member import Ending
from orchestrator.runner.messages import (
    Began,
    Ended,
    Finished,
    FixtureBegan,
    FixtureFailed,
    Mismatch,
    ServicesUp,
)

if TYPE_CHECKING:
    from orchestrator.runner.bookkeeper import Bookkeeper
    from orchestrator.runner.ledger import Account
    from orchestrator.runner.member import Member
    from orchestrator.runner.messages import Message
    from orchestrator.runner.patience import Patience
    from orchestrator.runner.recovery import Recovery


class Progress:
    """Follows the units that run.

    Args:
        timeout: Seconds each class may take, or None.
    """

    def __init__(
        self,
        bookkeeper: Bookkeeper,
        recovery: Recovery,
        *,
        timeout: float | None,
        patience: Patience,
    ) -> None:
        self._bookkeeper = bookkeeper
        self._recovery = recovery
        self._timeout = timeout
        self._patience = patience

    def heed(self, member: Member, account: Account, message: Message) -> None:
        """Take note of a message about a unit."""
        if isinstance(message, Mismatch):
            problem = blame.mismatch(member, message.text)
            self._bookkeeper.fixture_failed(account, account.unit.tests[0].owner, problem)
            self._bookkeeper.not_run(account, "it was collected differently")
            self._bookkeeper.unit_left(member, account)
        elif isinstance(message, FixtureBegan):
            self._fixture_began(member, account, message)
        elif isinstance(message, FixtureFailed):
            self._bookkeeper.fixture_failed(account, message.owner, message.problem)
        elif isinstance(message, ServicesUp):
            account.facts[message.owner] = message.facts
            member.secrets = message.secrets
        elif isinstance(message, Began):
            member.ordinal, member.running = message.ordinal, message.title
            member.began = message.written
        elif isinstance(message, Ended):
            if message.over:
                member.ordinal = None
            self._bookkeeper.test_ended(account, message)
        elif isinstance(message, Finished):
            self._finished(member, account, message)

    def _fixture_began(self, member: Member, account: Account, message: FixtureBegan) -> None:
        if message.owner != member.owner:
            self._bookkeeper.output(member, account, until=message.written)
            member.owner = message.owner
            member.restart_clock(self._timeout)
        member.phase = message.name

    def _finished(self, member: Member, account: Account, message: Finished) -> None:
        account.seconds.update(message.seconds)
        if message.stopped == "interrupt":
            member.phase = message.place or member.phase
            self._recovery.cut_short(member, account, status=None, trace=message.trace)
            member.leave(self._patience)
        elif member.ending is Ending.TIMEOUT:  # it got through in the last moment
            overtime = blame.overtime(member, self._timeout)
            self._bookkeeper.fixture_failed(account, member.owner, overtime)
            member.leave(self._patience)
        elif message.stopped == "stop":
            member.leave(self._patience)
        self._bookkeeper.unit_left(member, account)
