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
