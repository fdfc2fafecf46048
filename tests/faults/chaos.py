"""Cases for ``ci/faults`` alone: random moments, larger numbers, other deaths of the same kind."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from typing import TYPE_CHECKING

from tests.faults.case import FaultCase, repeated

if TYPE_CHECKING:
    from tests.faults.process import OwnerProcess


class ChaosTest(FaultCase):
    """The kill falls on network create, create, start, the run, atexit or the signal handler."""

    @repeated(40)
    def test_chaos_one_owner(self) -> None:
        """One owner, killed at a random moment, leaves nothing."""
        self._chaos(1)

    @repeated(10)
    def test_chaos_four_owners(self) -> None:
        """Four owners, killed at random moments, leave nothing."""
        self._chaos(4)

    @repeated(5)
    def test_chaos_eight_owners(self) -> None:
        """Eight owners, killed at random moments, leave nothing."""
        self._chaos(8)

    def _chaos(self, count: int) -> None:
        owners = [self.start("begin", seconds=random.uniform(0, 0.5)) for _ in range(count)]  # noqa: S311
        for owner in owners:
            owner.expect("begin")
        since = max(self._kill(owner) for owner in owners)
        self.assert_nothing_left(*owners, since=since)

    def _kill(self, owner: OwnerProcess) -> float:
        """SIGKILL at a random moment, half the time in the middle of the handling of another."""
        time.sleep(random.uniform(0, 1.2))  # noqa: S311  # the moment is the point
        with contextlib.suppress(ProcessLookupError):
            if random.random() < 0.5:  # noqa: S311
                owner.kill(random.choice((signal.SIGTERM, signal.SIGINT, signal.SIGHUP)))  # noqa: S311
                time.sleep(random.uniform(0, 0.4))  # noqa: S311
            owner.kill()
        now = time.monotonic()
        owner.wait()
        return now


class MoreTest(FaultCase):
    """What differs from cases of the other files in number or moment only."""

    @repeated(10, containers=10)
    def test_r01_normal_exit_with_ten_containers(self) -> None:
        """R1 Ten containers are gone when the process is."""
        owner = self.started("normal", containers=10)
        self.assert_ends(owner, 0, since=owner.go(), at_once=True)

    @repeated(30)
    def test_r03_interrupt_anywhere(self) -> None:
        """R3 Ctrl-C at a random moment of the start leaves nothing."""
        owner = self.start("begin", seconds=60)
        owner.expect("begin")
        time.sleep(random.uniform(0, 0.8))  # noqa: S311  # the moment is the point
        since = owner.kill(signal.SIGINT)
        self.assertNotEqual(0, owner.wait())
        self.assert_nothing_left(owner, since=since)

    @repeated(20)
    def test_r04_interrupts_in_a_row(self) -> None:
        """R4 An impatient user's five Ctrl-C leave nothing."""
        owner = self.started("wait")
        since = owner.kill(signal.SIGINT)
        for _ in range(4):
            time.sleep(random.uniform(0, 0.1))  # noqa: S311  # the moment is the point
            if owner.poll() is None:
                owner.kill(signal.SIGINT)
        self.assert_ends(owner, -signal.SIGINT, since=since)

    @repeated(20)
    def test_r06_abort(self) -> None:
        """R6 abort() leaves nothing."""
        owner = self.started("abort")
        self.assert_ends(owner, -signal.SIGABRT, since=owner.go())

    @repeated(20)
    def test_r06_exit_at_once(self) -> None:
        """R6 os._exit leaves nothing."""
        owner = self.started("exit_at_once")
        self.assert_ends(owner, 3, since=owner.go())

    @repeated(20)
    def test_r20_exec(self) -> None:
        """R20 A process that becomes another program leaves nothing."""
        owner = self.started("execv")
        since = owner.go()
        self.assert_nothing_left(owner, since=since)
        self.assertIsNone(owner.poll())
