"""The members at work: hiring, listening, and noticing every way one can end."""

from __future__ import annotations

import dataclasses
import selectors
import time
from typing import TYPE_CHECKING, Final, Self

from orchestrator.runner.member import Ending, Member, State
from orchestrator.runner.process import Process
from orchestrator.runner.protocol import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from orchestrator.runner.interrupts import Interrupts
    from orchestrator.runner.ledger import Account
    from orchestrator.runner.messages import Message, Setup
    from orchestrator.runner.patience import Patience

_TICK: Final = 0.5  # a death whose signal got lost is noticed this late, in seconds


class Crew:
    """Every live worker. On the way out none is left, whatever happened."""

    def __init__(
        self,
        setup: Setup,
        *,
        environ: Mapping[str, str],
        patience: Patience,
        interrupts: Interrupts,
    ) -> None:
        self.members: list[Member] = []
        self._setup = setup
        self._environ = environ
        self._patience = patience
        self._interrupts = interrupts
        self._hired = 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(interrupts, selectors.EVENT_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for member in self.members:
            member.interrupt(self._patience)
        while self.members:
            for _ in self.events():
                pass
        self._selector.close()

    def hire(self, *, report: bool) -> Member:
        """Start a worker; it collects first."""
        process = Process(environ=self._environ)
        self._hired += 1
        member = Member(process=process, number=self._hired)
        self.members.append(member)
        self._selector.register(process.channel, selectors.EVENT_READ, member)
        process.channel.send(dataclasses.replace(self._setup, report=report))
        return member

    def running(self) -> list[Account]:
        """The units that run."""
        return [member.account for member in self.members if member.account is not None]

    def events(self) -> Iterator[tuple[Member, Message | None]]:
        """Wait for something to happen; a message of None means that the member has died.

        Every message a member sent comes before its death.
        """
        self._attend_to_writers()
        ready = self._selector.select(self._patience_left())
        self._interrupts.drain()
        dead = [member for member in self.members if member.process.ended()]
        for key, _ in ready:
            if isinstance(key.data, Member) and key.data not in dead:
                key.data.process.channel.flush()
                yield from self._heard(key.data)
        for member in dead:
            if member.connected:
                yield from self._heard(member)
            self._discharge(member)
            yield member, None
        now = time.monotonic()
        for member in self.members:
            member.advance(now)

    def _heard(self, member: Member) -> Iterator[tuple[Member, Message]]:
        try:
            for message in member.process.channel.read(lost=lambda: self._disconnected(member)):
                yield member, message
        except ProtocolError:
            self._disconnected(member)

    def _disconnected(self, member: Member) -> None:
        """It cannot speak any more: let it tear down, but not for ever."""
        member.connected = False
        self._selector.unregister(member.process.channel)
        if member.state is not State.LEAVING and member.ending is Ending.NONE:
            member.lose(self._patience)

    def _discharge(self, member: Member) -> None:
        if member.connected:
            self._selector.unregister(member.process.channel)
        self.members.remove(member)

    def _attend_to_writers(self) -> None:
        for member in self.members:
            if member.connected:
                wanted = selectors.EVENT_READ
                if member.process.channel.unsent:
                    wanted |= selectors.EVENT_WRITE
                self._selector.modify(member.process.channel, wanted, member)

    def _patience_left(self) -> float:
        due = [step for member in self.members if (step := member.next_step) is not None]
        return max(0.0, min([_TICK, *(step - time.monotonic() for step in due)]))
