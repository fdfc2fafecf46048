"""R6, R19, R20: endings in which no code of the process runs any more; and the watchdog."""

import contextlib
import os
import select
import signal
import time
from pathlib import Path

from orchestrator.engine.api import Label
from tests.faults.case import FaultCase, repeated
from tests.faults.process import OwnerProcess, await_that
from tests.faults.proxy import Proxy


class SuddenDeathTest(FaultCase):
    """Only the watchdog is left to clean up."""

    @repeated(50)
    def test_r06_sigkill(self) -> None:
        """R6 SIGKILL leaves nothing."""
        owner = self.started("wait")
        since = owner.kill()
        self.assert_nothing_left(owner, since=since)

    @repeated(20)
    def test_r19_all_that_can_be_found(self) -> None:
        """R19 SIGTERM, SIGKILL to group, session, tree and tag; in none of them is the watchdog."""
        tag = f"RUNNER_TAG={self.run_id}".encode()
        owner = self.started("wait", before=["/usr/bin/env", tag.decode()])
        [watchdog] = owner.watchdogs()
        found = set()
        for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
            with contextlib.suppress(OSError):
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                tagged = tag in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                if tagged or owner.pid in (parent, os.getsid(pid)):
                    found.add(pid)
        self.assertEqual((True, False), (owner.pid in found, watchdog in found))
        since = owner.kill(0)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in (-owner.pid, *found):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        self.assertLess(owner.wait(), 0)
        self.assert_nothing_left(owner, since=since)

    @repeated(20)
    def test_r20_exec_to_another_owner(self) -> None:
        """R20 A process that becomes another owner keeps only what the new one creates."""
        owner = self.started("execv_again")
        before = owner.session
        owner.go()
        owner.expect("ready")
        self.assertNotEqual(before, owner.session)
        self.daemon.await_gone(before, Label.SESSION)
        self.assert_untouched(owner)
        since = owner.kill()
        self.assert_nothing_left(owner, since=since)

    @repeated(5)
    def test_r20_exec_without_watchdog(self) -> None:
        """R20 The new program's sweep knows the old one's things although pid and start agree."""
        # A sweep is skipped while others sweep: an address of its own has a lock of its own.
        url = self.enterContext(Proxy(self.daemon.url)).url
        owner = self.started("execv_again", url=url, judged=True)
        before = owner.session
        [watchdog] = owner.watchdogs()
        os.kill(watchdog, signal.SIGKILL)
        owner.go()
        owner.expect("ready")
        self.assertEqual([], self.daemon.left(before, Label.SESSION))
        self.assert_untouched(owner)
        since = owner.kill()
        self.assert_nothing_left(owner, since=since)
        owner.await_watchdogs()

    def _watched(self) -> tuple[OwnerProcess, int]:
        environ = ["SECRET=1", "DOCKER_TLS=x", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"]
        owner = self.started("again", before=["/usr/bin/env", *environ])
        [watchdog] = owner.watchdogs()
        return owner, watchdog

    def test_it_is_out_of_the_way(self) -> None:
        """At most 12 MiB, no timer, and of its owner only the environment that it needs."""
        owner, watchdog = self._watched()
        wchan = Path(f"/proc/{watchdog}/wchan")
        await_that(lambda: "poll" in wchan.read_text(), "it does not sleep")
        before = _status(watchdog, "voluntary_ctxt_switches")
        self.assertLessEqual(_status(watchdog, "VmRSS"), 12 * 1024)
        pairs = Path(f"/proc/{watchdog}/environ").read_bytes().decode().split("\0")
        names = {pair.partition("=")[0] for pair in pairs if pair}
        self.assertLessEqual({"DOCKER_TLS", "PATH", "SSL_CERT_FILE"}, names)
        self.assertFalse({"SECRET", "ORCHESTRATOR_RUN"} & names)
        for fd in (0, 1, 2):
            self.assertEqual("/dev/null", os.readlink(f"/proc/{watchdog}/fd/{fd}"))  # noqa: PTH115
        self.assertEqual("/", os.readlink(f"/proc/{watchdog}/cwd"))  # noqa: PTH115
        self.assertNotEqual(os.getsid(owner.pid), os.getsid(watchdog))
        self.assertNotEqual(owner.pid, _status(watchdog, "PPid"))
        time.sleep(1)  # the time in which it must not wake
        self.assertEqual(before, _status(watchdog, "voluntary_ctxt_switches"))

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
