"""R8 and R9: creates in flight when the owner dies, and creates during clean-up."""

from __future__ import annotations

import random
import signal
import time

from orchestrator.engine.api import Label
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

    @repeated(3)
    def test_r08_slow_daemon(self) -> None:
        """R8 A create that takes 4 s after SIGKILL, SIGTERM or Ctrl-C leaves nothing."""
        arrived: list[bytes] = []

        def hold(data: bytes) -> None:
            if data.rstrip().endswith(b"}") and b'"Image"' in data:  # a body: the request is whole
                arrived.append(data)
                time.sleep(4)  # not a wait of the test: this is the slow daemon

        with Proxy(self.daemon.url, before=hold) as proxy:
            signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
            owners = [self.start("create_slowly", url=proxy.url) for _ in signals]
            for owner in owners:
                owner.expect("ready")
            deadline = time.monotonic() + 30
            while len(arrived) < len(owners):
                self.assertLess(time.monotonic(), deadline, "no create arrived")
                time.sleep(0.01)
            for owner, number in zip(owners, signals, strict=True):
                since = owner.kill(number)
            for owner, number in zip(owners, signals, strict=True):
                self.assertEqual(-number, owner.wait())
            proxy.wait_until_answered(b"/containers/create")
            for owner in owners:
                wait_until_no_process_with(f"{Label.SESSION}={owner.session}")
        self.assert_nothing_left(*owners, since=since)

    @repeated(20)
    def test_r09_threads_create_at_sigterm(self) -> None:
        """R9 Threads that create while SIGTERM is handled leave nothing."""
        owner = self.started("create_for_ever")
        time.sleep(random.uniform(0, 0.3))  # noqa: S311  # the moment is the point
        self.assert_ends(owner, -signal.SIGTERM, since=owner.kill(signal.SIGTERM))

    def test_r09_refusal(self) -> None:
        """R9 A create after clean-up began is refused, and says why."""
        owner = self.started("refuse_after_end")
        since = owner.go()
        self.assertIn("this process is ending", owner.expect("refused")["message"])
        self.assert_ends(owner, 0, since=since)
