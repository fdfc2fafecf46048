"""R14, R15, R16: what the next start and ``reap`` remove, and what they leave alone."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unittest
import uuid
from typing import TYPE_CHECKING, Any
from unittest import mock

from orchestrator.cli import main
from orchestrator.engine.api import Label
from orchestrator.sessions.identity import Identity, this_process
from tests.faults.case import PrivateFaultCase, repeated
from tests.faults.process import ROOT, processes_with, wait_until_no_process_with
from tests.faults.quiet import no_sweeps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.faults.process import OwnerProcess

_NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc")


class SweepTest(PrivateFaultCase):
    """Judged by identity, never by age or pid alone. On a daemon that nobody else sweeps."""

    judged = True

    def _ends(self, owner: OwnerProcess) -> None:
        """It ends before its way to the daemon is closed, and so does its watchdog."""
        self.assert_ends(owner, 0, since=owner.go())
        wait_until_no_process_with(f"{Label.SESSION}={owner.session}")

    def plant(self, owner: Identity | str, *, session: str | None = None) -> str:
        """Create a volume in somebody's name; the session it is in."""
        session = session or str(uuid.uuid4())
        marks = {
            Label.MARK: "1",
            Label.SESSION: session,
            Label.RUN: self.run_id,
            Label.OWNER: owner if isinstance(owner, str) else owner.to_label(),
            Label.CREATED: "2020-01-01T00:00:00+00:00",
            Label.NAME: f"orchestrator-{session[:8]}-planted",
        }
        self.daemon.client.create_volume(marks[Label.NAME], labels=marks)
        return session

    def reap(self, *arguments: str, before: Sequence[str] = ()) -> dict[str, Any]:
        """Run the command on this run's things; its report."""
        argv = ["reap", "--json", "--run", self.run_id, *arguments]
        environ = {"DOCKER_HOST": self.daemon.url}
        if before:
            done = subprocess.run(
                [*before, sys.executable, "-m", "orchestrator", *argv],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
                check=False,
                timeout=120,
                env=os.environ | environ,
            )
            said = done.stdout
        else:
            out = io.StringIO()
            with mock.patch.dict(os.environ, environ), contextlib.redirect_stdout(out):
                main(argv)
            said = out.getvalue()
        report: dict[str, Any] = json.loads(said)
        self.assertEqual([], report["failed"])
        return report

    def sessions(self, spared: list[dict[str, Any]]) -> set[str]:
        """The sessions of what a report lists."""
        return {thing["session"] for thing in spared}

    def _orphans(self) -> str:
        """Leave a network and two containers whose owner and watchdog are dead; the session."""
        owner = self.started("wait")
        for pid in (*owner.watchdogs(), owner.pid):
            os.kill(pid, signal.SIGKILL)
        owner.wait()
        return owner.session

    @repeated(10)
    def test_r14_owner_and_watchdog_killed(self) -> None:
        """R14 The next start removes what a killed watchdog or a reboot left behind.

        It waits for no other process that sweeps, and goes on without a sweep of its own.
        """
        before = dataclasses.replace(this_process(), boot=str(uuid.uuid4()))
        dead = [self._orphans(), self.plant(before)]
        with no_sweeps(self.daemon.url):
            owner = self.started("normal")
            for session in dead:
                self.assertNotEqual([], self.daemon.left_of_session(session))
        second = self.started("normal")
        self.assertEqual([[], []], [self.daemon.left_of_session(session) for session in dead])
        owner.go()
        self._ends(second)

    def reap_refused(self, *arguments: str, before: Sequence[str] = ()) -> dict[str, Any]:
        """Reap, and remove nothing."""
        report = self.reap(*arguments, before=before)
        self.assertEqual([], report["removed"])
        return report

    @repeated(3)
    def test_r15_planted(self) -> None:
        """R15 Only the provably dead go by themselves; old ones of another host by their age.

        A pid that was reused protects nothing; what cannot be read goes with --all alone.
        """
        me = this_process()
        dead = self.plant(dataclasses.replace(me, start=me.start - 1))
        other = dataclasses.replace(me, boot=str(uuid.uuid4()))
        unknown = {
            self.plant(dataclasses.replace(other, host="elsewhere/1f")),
            self.plant(dataclasses.replace(other, host=me.host.partition("/")[0] + "/")),
        }
        malformed = {self.plant(label) for label in ("", "nonsense", '{"pid":-1}', "[" * 10_000)}
        report = self.reap()
        self.assertEqual({dead}, self.sessions(report["removed"]))
        self.assertEqual(unknown | malformed, self.sessions(report["kept"]))
        report = self.reap("--older-than", "2h")
        self.assertEqual(unknown, self.sessions(report["removed"]))
        self.assertEqual(malformed, self.sessions(report["kept"]))
        self.assertEqual(malformed, self.sessions(self.reap("--all")["removed"]))

    def test_r15_living_owner(self) -> None:
        """R15 A living owner's things, stopped or not, are left alone without --all."""
        owner = self.started("wait")
        self.reap_refused()
        owner.kill(signal.SIGSTOP)
        self.reap_refused()
        self.reap_refused("--older-than", "0s")
        self.reap_refused("--session", owner.session)
        self.assert_untouched(owner)
        self.assertEqual({owner.session}, self.sessions(self.reap("--all")["removed"]))

    @repeated(5)
    def test_r15_namespace_seen_from_the_host(self) -> None:
        """R15 An owner in another PID namespace is left alone while it lives, and reaped after."""
        self._need_namespaces()
        owner = self.started("wait", before=_NAMESPACE)
        self.reap_refused()
        self.assert_untouched(owner)
        for pid in processes_with("tests.faults.owner"):
            if self._child_of(pid, owner.pid):
                os.kill(pid, signal.SIGKILL)  # the namespace's init: its watchdog dies with it
        owner.wait()
        if _is_initial_namespace():
            since = time.monotonic()
            self.assertEqual({owner.session}, self.sessions(self.reap()["removed"]))
            self.assert_nothing_left(owner, since=since)

    @repeated(5)
    def test_r15_host_seen_from_a_namespace(self) -> None:
        """R15 From inside a container nobody outside is judged, unless an age is given."""
        self._need_namespaces()
        owner = self.started("wait")
        self.reap_refused(before=_NAMESPACE)
        self.assert_untouched(owner)
        dead = self._orphans()
        report = self.reap_refused(before=_NAMESPACE)
        self.assertEqual({owner.session, dead}, self.sessions(report["kept"]))
        since = owner.kill()
        self.reap("--older-than", "0s", before=_NAMESPACE)
        self.assert_nothing_left(owner, since=since)

    def _need_namespaces(self) -> None:
        if os.geteuid() != 0 or not shutil.which("unshare"):
            raise unittest.SkipTest("a PID namespace takes root and unshare")

    def _child_of(self, pid: int, parent: int) -> bool:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
            return int(stat.read().rpartition(")")[2].split()[1]) == parent

    @repeated(10)
    def test_r16_several_reapers_at_once(self) -> None:
        """R16 Three reapers and a start at once all succeed, and nothing is left."""
        self._orphans()
        since = time.monotonic()
        reapers = [
            subprocess.Popen(
                [sys.executable, "-m", "orchestrator", "reap", "--run", self.run_id],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**os.environ, "DOCKER_HOST": self.daemon.url},
            )
            for _ in range(3)
        ]
        owner = self.started("normal")
        for reaper in reapers:
            _out, errors = reaper.communicate(timeout=60)
            self.assertIn(reaper.returncode, (0, 1), errors)  # 1: it saw the living owner's things
            self.assertEqual(b"", errors)
        self.assert_untouched(owner)
        owner.go()
        self.assertEqual(0, owner.wait())
        self.assert_nothing_left(owner, since=since)


def _is_initial_namespace() -> bool:
    return os.stat("/proc/self/ns/pid").st_ino == 0xEFFFFFFC  # noqa: PTH116
