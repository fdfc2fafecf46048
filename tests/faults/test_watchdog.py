"""The watchdog itself: what it costs, what it does not inherit, and who watches it."""

import os
import select
import signal
import time
from pathlib import Path

from tests.faults.case import FaultCase
from tests.faults.process import OwnerProcess


class WatchdogTest(FaultCase):
    """One for each session, out of everybody's way."""

    def _watched(self) -> tuple[OwnerProcess, int]:
        owner = self.started("again", before=["/usr/bin/env", "SECRET=1", "DOCKER_TLS=x"])
        [watchdog] = owner.watchdogs()
        return owner, watchdog

    def test_it_is_out_of_the_way(self) -> None:
        """At most 12 MiB, no timer, and of its owner only the environment that it needs."""
        owner, watchdog = self._watched()
        self._wait_until_asleep(watchdog)
        before = _status(watchdog, "voluntary_ctxt_switches")
        self.assertLessEqual(_status(watchdog, "VmRSS"), 12 * 1024)
        pairs = Path(f"/proc/{watchdog}/environ").read_bytes().decode().split("\0")
        names = {pair.partition("=")[0] for pair in pairs if pair}
        self.assertLessEqual({"DOCKER_TLS", "PATH"}, names)
        self.assertFalse({"SECRET", "ORCHESTRATOR_RUN"} & names)
        for fd in (0, 1, 2):
            self.assertEqual("/dev/null", os.readlink(f"/proc/{watchdog}/fd/{fd}"))  # noqa: PTH115
        self.assertEqual("/", os.readlink(f"/proc/{watchdog}/cwd"))  # noqa: PTH115
        self.assertNotEqual(os.getsid(owner.pid), os.getsid(watchdog))
        self.assertNotEqual(owner.pid, _status(watchdog, "PPid"))
        time.sleep(1)  # the time in which it must not wake
        self.assertEqual(before, _status(watchdog, "voluntary_ctxt_switches"))

    def _wait_until_asleep(self, pid: int) -> None:
        deadline = time.monotonic() + 30
        while "poll" not in Path(f"/proc/{pid}/wchan").read_text():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)

    def test_it_is_replaced(self) -> None:
        """One that was killed, before the next create; signals meant for everybody end none."""
        owner, watchdog = self._watched()
        _kill_and_wait(watchdog)
        owner.go()
        owner.expect("created")
        [another] = owner.watchdogs()
        self.assertNotEqual(watchdog, another)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(another, number)
        since = owner.kill()
        self.assert_nothing_left(owner, since=since)


def _kill_and_wait(pid: int) -> None:
    """Kill a process that is not our child, and wait until its files are closed."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [])
    finally:
        os.close(pidfd)


def _status(pid: int, field: str) -> int:
    """A number from proc(5)'s status file; memory in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise AssertionError(f"no {field} of process {pid}")
