"""R6, R19, R20: endings in which no code of the process runs any more."""

import contextlib
import os
import signal
from pathlib import Path

from orchestrator.engine.api import Label
from tests.faults.case import FaultCase, repeated
from tests.faults.process import wait_until_no_process_with
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
        self.daemon.wait_until_session_gone(before)
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
        self.assertEqual([], self.daemon.left_of_session(before))
        self.assert_untouched(owner)
        since = owner.kill()
        self.assert_nothing_left(owner, since=since)
        wait_until_no_process_with(f"{Label.SESSION}={owner.session}")
