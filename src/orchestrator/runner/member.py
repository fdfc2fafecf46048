"""One member of the crew: a worker process, what it is doing, and how it is being ended."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from orchestrator.runner.messages import Leave, Run, Stop
from orchestrator.runner.output import Written

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.runner.ledger import Account
    from orchestrator.runner.patience import Patience
    from orchestrator.runner.process import Process


class State(Enum):
    """What a member is doing."""

    COLLECTING = auto()
    IDLE = auto()
    RUNNING = auto()
    LEAVING = auto()


class Ending(Enum):
    """Why a member is being ended by the parent."""

    NONE = ""
    TIMEOUT = "timed out"
    STOP = "stopped"
    INTERRUPT = "interrupted"
    KILL = "killed"


@dataclass(kw_only=True)
class Member:
    """A worker as the parent sees it.

    Attributes:
        account: The unit it runs.
        ordinal: The test that began and has not ended, or None.
        phase: The last fixture that began, such as ``setUpClass (module.Class)``.
        owner: The class it is at; empty in a module's fixtures.
        since: When the class began, on the monotonic clock; ``deadline`` is when it is too late.
        running: The title of what runs in it, where that is not the collected test itself.
        began: How much it had written when the test began; ``shown`` is how much is reported.
        ending: Why the parent is ending it.
        hung_in: The test that ran when it timed out; ``hung_at`` is the fixture then.
        killed: Whether the parent had to kill it.
        served: Whether it ever ran a class with services.
        secrets: What is masked in the logs of its services.
        connected: Whether its socket is open.
    """

    process: Process
    number: int
    state: State = State.COLLECTING
    account: Account | None = None
    ordinal: int | None = None
    phase: str = ""
    owner: str = ""
    since: float = field(default_factory=time.monotonic)
    deadline: float | None = None
    running: str = ""
    began: Written = field(default_factory=Written)
    shown: Written = field(default_factory=Written)
    ending: Ending = Ending.NONE
    hung_in: int | None = None
    hung_at: str = ""
    killed: bool = False
    served: bool = False
    secrets: tuple[str, ...] = ()
    connected: bool = True
    _steps: deque[tuple[float, Callable[[], None]]] = field(default_factory=deque)

    def assign(self, account: Account, *, timeout: float | None) -> None:
        """Give it a unit."""
        self.account = account
        self.served |= bool(account.unit.services)
        self.state = State.RUNNING
        self.ordinal, self.phase, self.owner = None, "", ""
        self.began = self.process.output.written()
        self.restart_clock(timeout)
        self.process.channel.send(
            Run(
                unit=account.unit.key,
                ids=tuple(test.id for test in account.unit.tests),
                order=tuple(account.open),
            )
        )

    def release(self) -> None:
        """It is done with its unit."""
        self.account, self.ordinal, self.deadline = None, None, None
        if self.state is State.RUNNING:
            self.state = State.IDLE

    def restart_clock(self, timeout: float | None) -> None:
        """A class begins: it has the whole timeout."""
        self.since = time.monotonic()
        self.deadline = None if timeout is None else self.since + timeout

    # Endings: a row of steps, each harder than the one before

    def leave(self, patience: Patience) -> None:
        """Let it exit, if it is not on its way already."""
        self.state = State.LEAVING
        self.deadline = None
        self.process.channel.send(Leave())
        self._plan([(patience.leave, self._kill)])

    def stop(self, patience: Patience | None) -> None:
        """Let it finish its test and tear down; with patience, not for ever."""
        self._ended_by(Ending.STOP)
        self.process.channel.send(Stop())
        if patience is not None:
            self._plan([(patience.finish, self._interrupt), (patience.teardown, self._kill)])

    def interrupt(self, patience: Patience, why: Ending = Ending.INTERRUPT) -> None:
        """Interrupt its test and let it tear down."""
        self._ended_by(why)
        self._interrupt()
        self._plan([(patience.teardown, self._kill)])

    def lose(self, patience: Patience) -> None:
        """It cannot be heard any more: it is about to die, or tears down and exits by itself."""
        self._plan([(patience.teardown, self._kill)])

    def time_out(self, patience: Patience) -> None:
        """Have it write its stacks, then interrupt it."""
        self._ended_by(Ending.TIMEOUT)
        self.hung_in, self.hung_at = self.ordinal, self.phase
        self.process.dump_stacks()
        if self.state is State.COLLECTING:  # nothing to tear down yet
            self._plan([(patience.dump, self._kill)])
        else:
            self._plan([(patience.dump, self._interrupt), (patience.teardown, self._kill)])

    def kill(self) -> None:
        """End it now, and its process group with it."""
        self._ended_by(Ending.KILL)
        self._kill()

    def advance(self, now: float) -> None:
        """Take the steps that are due."""
        while self._steps and self._steps[0][0] <= now:
            self._steps.popleft()[1]()

    @property
    def next_step(self) -> float | None:
        """When something is due, on the monotonic clock."""
        due = [when for when, _ in self._steps]
        if self.deadline is not None and self.ending is Ending.NONE:
            due.append(self.deadline)
        return min(due, default=None)

    def _ended_by(self, why: Ending) -> None:
        self.deadline = None
        # A harder ending does not hide the reason of the first one, except that stopping is none.
        if self.ending in (Ending.NONE, Ending.STOP):
            self.ending = why

    def _plan(self, steps: list[tuple[float, Callable[[], None]]]) -> None:
        self._steps.clear()
        when = time.monotonic()
        for seconds, step in steps:
            when += seconds
            self._steps.append((when, step))

    def _interrupt(self) -> None:
        if self.ending is Ending.STOP:
            self.ending = Ending.INTERRUPT
        self.process.interrupt()

    def _kill(self) -> None:
        self.killed = True
        self._steps.clear()
        self.process.kill()
