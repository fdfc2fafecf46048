"""R3 and R4: Ctrl-C, once and twice. No handler of ours: KeyboardInterrupt, then atexit."""

from __future__ import annotations

import random
import signal
import time

from tests.faults.case import FaultCase, repeated


class InterruptTest(FaultCase):
    """SIGINT at any moment."""

    @repeated(20)
    def test_r03_interrupt(self) -> None:
        """R3 Ctrl-C leaves nothing, and the status says so."""
        owner = self.started("wait")
        since = owner.kill(signal.SIGINT)
        self.assertEqual(-signal.SIGINT, owner.wait())
        self.assertEqual([], self.daemon.left(self.run_id), "left at the moment of its end")
        self.assert_nothing_left(owner, since=since)

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
    def test_r04_interrupt_twice(self) -> None:
        """R4 A second Ctrl-C during clean-up leaves nothing."""
        owner = self.started("wait", containers=4)
        since = owner.kill(signal.SIGINT)
        time.sleep(0.12)
        if owner.poll() is None:
            owner.kill(signal.SIGINT)
        self.assertEqual(-signal.SIGINT, owner.wait())
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
        self.assertEqual(-signal.SIGINT, owner.wait())
        self.assert_nothing_left(owner, since=since)
