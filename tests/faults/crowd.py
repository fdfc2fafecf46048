"""R15 with many processes at once: nobody touches what a living owner has."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from typing import Final

from tests.faults.case import FaultCase
from tests.faults.process import ROOT, OwnerProcess

# Seconds the crowd is kept up.
_SECONDS: Final = float(os.environ.get("FAULTS_SECONDS", "60"))
_STAYING: Final = 4
_COMING_AND_GOING: Final = 4
_LEAST: Final = 2


class CrowdTest(FaultCase):
    """Eight owners and two reapers at once."""

    judged = True

    def test_r15_living_owners_are_left_alone(self) -> None:
        """R15 While owners come, die and are reaped, those that live lose nothing."""
        staying = [self.started("wait", containers=1) for _ in range(_STAYING)]
        passing: list[OwnerProcess] = []
        reapers: list[subprocess.Popen[bytes]] = []
        rounds = 0
        end = time.monotonic() + _SECONDS
        while rounds < _LEAST or time.monotonic() < end:  # a busy machine has one in five seconds
            passing += [self._begin() for _ in range(_COMING_AND_GOING - len(passing))]
            reapers += [self._reaper() for _ in range(2 - len(reapers))]
            time.sleep(random.uniform(0, 0.3))  # noqa: S311  # the moment is the point
            victim = passing.pop(random.randrange(len(passing)))  # noqa: S311
            victim.expect("begin")
            if rounds % 2:  # its things are then for the others' sweeps
                for watchdog in victim.watchdogs():
                    os.kill(watchdog, signal.SIGKILL)
            victim.kill()
            rounds += 1
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
