"""Cases for ``ci/faults`` alone: random moments, and many processes at once."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from typing import Final

from tests.faults.case import FaultCase, repeated
from tests.faults.process import ROOT, OwnerProcess

_STAYING: Final = 4
_COMING_AND_GOING: Final = 4
_ROUNDS: Final = 40


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


class CrowdTest(FaultCase):
    """Eight owners and two reapers at once."""

    judged = True

    def test_r15_living_owners_are_left_alone(self) -> None:
        """R15 While owners come, die and are reaped, those that live lose nothing."""
        staying = [self.started("wait", containers=1) for _ in range(_STAYING)]
        passing: list[OwnerProcess] = []
        reapers: list[subprocess.Popen[bytes]] = []
        for number in range(_ROUNDS):
            passing += [self._begin() for _ in range(_COMING_AND_GOING - len(passing))]
            reapers += [self._reaper() for _ in range(2 - len(reapers))]
            time.sleep(random.uniform(0, 0.3))  # noqa: S311  # the moment is the point
            victim = passing.pop(random.randrange(len(passing)))  # noqa: S311
            victim.expect("begin")
            if number % 2:  # its things are then for the others' sweeps
                for watchdog in victim.watchdogs():
                    os.kill(watchdog, signal.SIGKILL)
            victim.kill()
            reapers = [reaper for reaper in reapers if reaper.poll() is None]
            for owner in staying:
                self.assert_untouched(owner, containers=1)
        for reaper in reapers:
            reaper.wait()
        for owner in (*staying, *passing):
            since = owner.kill()
            owner.wait()
        subprocess.run(self._reap, cwd=ROOT, env=self._environ(), check=False, capture_output=True)
        self.assert_nothing_left(staying[0], since=since)

    def _begin(self) -> OwnerProcess:
        return self.start("begin", containers=1, seconds=60)

    def _reaper(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._reap, cwd=ROOT, env=self._environ(), stdout=subprocess.DEVNULL
        )

    @property
    def _reap(self) -> list[str]:
        return [sys.executable, "-m", "orchestrator", "reap", "--run", self.run_id]

    def _environ(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_HOST": self.daemon.url}
