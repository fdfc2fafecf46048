"""R12 and R13: the daemon restarts, is away for a while, or hangs. On a daemon of our own."""

from __future__ import annotations

import signal
import time

from tests.faults.case import PrivateFaultCase, repeated


class DaemonTest(PrivateFaultCase):
    """The daemon fails, too."""

    @repeated(3)
    def test_r12_away_at_the_end(self) -> None:
        """R12 A daemon that is away is waited for, but not by the process, which says so."""
        ending, killed = self.started("normal"), self.started("wait")
        self.private.stop()
        ending.go()
        since = killed.kill()
        self.assertEqual(0, ending.wait())
        self.assertIn("python -m orchestrator reap", ending.errors())
        time.sleep(2)  # not a wait: this is how long it is away
        self.private.start()
        self.assert_nothing_left(ending, killed, since=since)

    @repeated(3)
    def test_r12_crash_at_death(self) -> None:
        """R12 A daemon that is killed together with the owner, and comes back, leaves nothing."""
        owner = self.started("wait")
        self.private.kill()
        since = owner.kill()
        owner.wait()
        self.private.start()
        self.assert_nothing_left(owner, since=since)

    @repeated(3)
    def test_r13_hang_at_the_end(self) -> None:
        """R13 A daemon that hangs keeps no process from ending, which says so, by exit or SIGTERM.

        After SIGKILL it is waited for.
        """
        ending, terminated, killed = (self.started(it) for it in ("normal", "wait", "wait"))
        self.private.signal(signal.SIGSTOP)
        try:
            since = ending.go()
            terminated.kill(signal.SIGTERM)
            killed.kill()
            for owner, status in ((ending, 0), (terminated, -signal.SIGTERM)):
                self.assertEqual(status, owner.wait())
                self.assertIn(owner.session, owner.errors())
                self.assertIn("python -m orchestrator reap", owner.errors())
        finally:
            self.private.signal(signal.SIGCONT)
        self.assert_nothing_left(ending, terminated, killed, since=since)
