"""R12 and R13: the daemon restarts, is away for a while, or hangs. On a daemon of our own."""

from __future__ import annotations

import signal
import time
from typing import ClassVar

from tests.faults.case import FaultCase, repeated
from tests.faults.daemon import Daemon
from tests.faults.private_daemon import PrivateDaemon


class DaemonTest(FaultCase):
    """The daemon fails, too."""

    private: ClassVar[PrivateDaemon]

    @classmethod
    def make_daemon(cls) -> Daemon:
        """The daemon to use: a private one."""
        cls.private = PrivateDaemon()
        cls.addClassCleanup(cls.private.close)
        cls.private.start()
        return Daemon(cls.private.url)

    @repeated(3)
    def test_r12_restart_before_the_end(self) -> None:
        """R12 A daemon that restarted between start and death leaves nothing."""
        owner = self.started("wait")
        self.private.stop()
        self.private.start()
        since = owner.kill()
        self.assert_nothing_left(owner, since=since)

    @repeated(3)
    def test_r12_restart_before_a_normal_exit(self) -> None:
        """R12 The same with a normal exit."""
        owner = self.started("normal")
        self.private.stop()
        self.private.start()
        since = owner.go()
        self.assertEqual(0, owner.wait(), owner.errors())
        self.assertEqual("", owner.errors())
        self.assert_nothing_left(owner, since=since)

    @repeated(3)
    def test_r12_away_at_death(self) -> None:
        """R12 A daemon that is away when the owner is killed is waited for."""
        owner = self.started("wait")
        self.private.stop()
        since = owner.kill()
        owner.wait()
        time.sleep(2)  # not a wait: this is how long it is away
        self.private.start()
        self.assert_nothing_left(owner, since=since)

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
    def test_r12_away_at_exit(self) -> None:
        """R12 A daemon that is away at a normal exit: the process ends and says so."""
        owner = self.started("normal")
        self.private.stop()
        since = owner.go()
        self.assertEqual(0, owner.wait())
        self.assertIn("python -m orchestrator reap", owner.errors())
        self.private.start()
        self.assert_nothing_left(owner, since=since)

    def _hangs(self, ending: str, *, number: signal.Signals | None, status: int) -> None:
        owner = self.started(ending)
        self.private.signal(signal.SIGSTOP)
        try:
            since = owner.go() if number is None else owner.kill(number)
            self.assertEqual(status, owner.wait())
            self.assertIn(owner.session, owner.errors())
            self.assertIn("python -m orchestrator reap", owner.errors())
        finally:
            self.private.signal(signal.SIGCONT)
        self.assert_nothing_left(owner, since=since)

    @repeated(3)
    def test_r13_hang_at_exit(self) -> None:
        """R13 A daemon that hangs keeps no process from ending, and the process says so."""
        self._hangs("normal", number=None, status=0)

    @repeated(3)
    def test_r13_hang_at_sigterm(self) -> None:
        """R13 The same when SIGTERM is handled."""
        self._hangs("wait", number=signal.SIGTERM, status=-signal.SIGTERM)

    @repeated(3)
    def test_r13_hang_at_sigkill(self) -> None:
        """R13 A daemon that hangs when the owner is killed is waited for."""
        owner = self.started("wait")
        self.private.signal(signal.SIGSTOP)
        since = owner.kill()
        owner.wait()
        time.sleep(1)  # not a wait: this is how long it hangs
        self.private.signal(signal.SIGCONT)
        self.assert_nothing_left(owner, since=since)
