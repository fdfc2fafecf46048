"""R6, R19, R20: endings in which no code of the process runs any more."""

from __future__ import annotations

import contextlib
import os
import signal
import unittest
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.engine import labels
from tests.faults.case import FaultCase, repeated
from tests.faults.process import wait_until_no_process_with
from tests.faults.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator


class SuddenDeathTest(FaultCase):
    """Only the watchdog is left to clean up."""

    @repeated(50)
    def test_r06_sigkill(self) -> None:
        """R6 SIGKILL leaves nothing."""
        owner = self.started("wait")
        since = owner.kill()
        self.assert_nothing_left(owner, since=since)

    def _dies(self, ending: str, *, status: int) -> None:
        owner = self.started(ending)
        since = owner.go()
        self.assertEqual(status, owner.wait())
        self.assert_nothing_left(owner, since=since)

    @repeated(20)
    def test_r06_segmentation_fault(self) -> None:
        """R6 A segmentation fault leaves nothing, with faulthandler on."""
        self._dies("segv", status=-signal.SIGSEGV)

    @repeated(20)
    def test_r06_abort(self) -> None:
        """R6 abort() leaves nothing."""
        self._dies("abort", status=-signal.SIGABRT)

    @repeated(20)
    def test_r06_exit_at_once(self) -> None:
        """R6 os._exit leaves nothing."""
        self._dies("exit_at_once", status=3)

    @repeated(20)
    def test_r06_out_of_memory(self) -> None:
        """R6 A process that the kernel kills for lack of memory leaves nothing."""
        with _memory_limit(160 << 20, name=f"orchestrator-{self.run_id}") as group:
            owner = self.start("eat_memory", before=["/bin/sh", "-c", _JOIN, group])
            owner.expect("ready")
            since = owner.go()
            self.assertEqual(-signal.SIGKILL, owner.wait())
            self.assert_nothing_left(owner, since=since)

    @repeated(20)
    def test_r19_process_group(self) -> None:
        """R19 SIGKILL to the process group leaves nothing."""
        owner = self.started("wait")
        since = owner.kill(0)
        os.killpg(owner.pid, signal.SIGKILL)
        self.assert_nothing_left(owner, since=since)

    @repeated(20)
    def test_r19_process_tree(self) -> None:
        """R19 SIGKILL to the whole tree, by parent pid, leaves nothing."""
        owner = self.started("wait")
        since = owner.kill(0)
        for pid in _descendants(owner.pid):
            os.kill(pid, signal.SIGKILL)
        self.assert_nothing_left(owner, since=since)

    @repeated(20)
    def test_r19_environment_tag(self) -> None:
        """R19 SIGKILL to every process whose environment has a CI runner's tag leaves nothing."""
        owner = self.started("wait", before=["/usr/bin/env", f"RUNNER_TAG={self.run_id}"])
        since = owner.kill(0)
        for pid in _tagged(f"RUNNER_TAG={self.run_id}"):
            os.kill(pid, signal.SIGKILL)
        self.assertEqual(-signal.SIGKILL, owner.wait())
        self.assert_nothing_left(owner, since=since)

    @repeated(20)
    def test_r19_session_of_the_terminal(self) -> None:
        """R19 SIGTERM, then SIGKILL, to all of the owner's process session leaves nothing."""
        owner = self.started("wait")
        since = owner.kill(0)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in _in_session(owner.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        self.assert_nothing_left(owner, since=since)

    @repeated(20)
    def test_r20_exec(self) -> None:
        """R20 A process that becomes another program leaves nothing."""
        owner = self.started("execv")
        since = owner.go()
        self.assert_nothing_left(owner, since=since)
        self.assertIsNone(owner.poll())

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
        wait_until_no_process_with(f"{labels.SESSION}={owner.session}")


class WholeTreeTest(FaultCase):
    """What our tree finder finds; without this, R19 could pass by killing nobody."""

    def test_the_owner_is_found_and_its_watchdog_is_not(self) -> None:
        """By parent pid, environment and process session the owner is found, its watchdog never."""
        owner = self.started("wait", before=["/usr/bin/env", f"RUNNER_TAG={self.run_id}"])
        [watchdog] = owner.watchdogs()
        for found in (
            _descendants(owner.pid),
            _tagged(f"RUNNER_TAG={self.run_id}"),
            _in_session(owner.pid),
        ):
            self.assertIn(owner.pid, found)
            self.assertNotIn(watchdog, found)
        since = owner.kill()
        self.assert_nothing_left(owner, since=since)


_JOIN = 'echo $$ > "$0"/cgroup.procs && exec "$@"'


@contextlib.contextmanager
def _memory_limit(limit: int, *, name: str) -> Iterator[str]:
    """A control group with this many bytes; its folder. Skips where that is not allowed."""
    first = Path("/sys/fs/cgroup/memory")
    root = first if first.is_dir() else Path("/sys/fs/cgroup")
    knob = "memory.limit_in_bytes" if first.is_dir() else "memory.max"
    group = root / name
    try:
        group.mkdir()
        (group / knob).write_text(str(limit))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        raise unittest.SkipTest(f"no control group with a memory limit: {error}") from None
    try:
        yield str(group)
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        while True:
            try:
                group.rmdir()
                break
            except OSError:  # the kernel takes a moment to let the killed ones go
                continue


def _descendants(root: int) -> list[int]:
    """A process and all below it, by parent pid, as CI runners find them."""
    parents = {}
    for pid in _pids():
        with contextlib.suppress(OSError, IndexError):
            stat = Path(f"/proc/{pid}/stat").read_text()
            parents[pid] = int(stat.rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _tagged(tag: str) -> list[int]:
    """Every process with a tag in its environment."""
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            if tag.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def _in_session(leader: int) -> list[int]:
    """Every process of a process session."""
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            if os.getsid(pid) == leader:
                found.append(pid)
    return found


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
