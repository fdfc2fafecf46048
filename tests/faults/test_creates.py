"""R8 and R9: creates in flight when the owner dies, and creates during clean-up."""

from __future__ import annotations

import random
import signal
import threading
import time

from orchestrator.engine import labels
from tests.faults.case import FaultCase, repeated
from tests.faults.process import wait_until_no_process_with
from tests.faults.proxy import Proxy


class CreateTest(FaultCase):
    """A create call that nobody waits for any more still completes."""

    @repeated(50)
    def test_r08_killed_while_creating(self) -> None:
        """R8 SIGKILL at a random moment of the start leaves nothing."""
        owner = self.start("begin", seconds=60, containers=4)
        owner.expect("begin")
        time.sleep(random.uniform(0, 0.6))  # noqa: S311  # the moment is the point
        since = owner.kill()
        self.assert_nothing_left(owner, since=since)

    def _slow_create(self, number: signal.Signals) -> None:
        arrived = threading.Event()

        def hold(data: bytes) -> None:
            if data.rstrip().endswith(b"}") and b'"Image"' in data:  # a body: the request is whole
                arrived.set()
                time.sleep(4)  # not a wait of the test: this is the slow daemon

        with Proxy(self.daemon.url, before=hold) as proxy:
            owner = self.start("create_slowly", url=proxy.url)
            owner.expect("ready")
            self.assertTrue(arrived.wait(30), "no create arrived")
            since = owner.kill(number)
            self.assertEqual(-number, owner.wait())
            proxy.wait_until_answered(b"/containers/create")
            self.assert_nothing_left(owner, since=since)
            wait_until_no_process_with(f"{labels.SESSION}={owner.session}")

    @repeated(3)
    def test_r08_slow_daemon_sigkill(self) -> None:
        """R8 A create that takes 4 s after its client was killed leaves nothing."""
        self._slow_create(signal.SIGKILL)

    @repeated(3)
    def test_r08_slow_daemon_sigterm(self) -> None:
        """R8 A create that takes 4 s after its client got SIGTERM leaves nothing."""
        self._slow_create(signal.SIGTERM)

    @repeated(3)
    def test_r08_slow_daemon_interrupt(self) -> None:
        """R8 A create that takes 4 s after its client got Ctrl-C leaves nothing."""
        self._slow_create(signal.SIGINT)

    @repeated(20)
    def test_r09_threads_create_at_exit(self) -> None:
        """R9 Threads that create while the process ends leave nothing."""
        owner = self.started("create_for_ever")
        time.sleep(random.uniform(0, 0.3))  # noqa: S311  # the moment is the point
        since = owner.go()
        owner.wait()
        self.assert_nothing_left(owner, since=since)

    @repeated(20)
    def test_r09_threads_create_at_sigterm(self) -> None:
        """R9 Threads that create while SIGTERM is handled leave nothing."""
        owner = self.started("create_for_ever")
        time.sleep(random.uniform(0, 0.3))  # noqa: S311  # the moment is the point
        since = owner.kill(signal.SIGTERM)
        self.assertEqual(-signal.SIGTERM, owner.wait())
        self.assert_nothing_left(owner, since=since)

    def test_r09_refusal(self) -> None:
        """R9 A create after clean-up began is refused, and says why."""
        owner = self.started("refuse_after_end")
        since = owner.go()
        self.assertIn("this process is ending", owner.expect("refused")["message"])
        self.assertEqual(0, owner.wait())
        self.assert_nothing_left(owner, since=since)
