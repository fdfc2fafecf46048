"""R12 to R16: a daemon that fails; what the next start and ``reap`` remove, and what they leave."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import unittest
import uuid
from collections.abc import Sequence
from typing import Any, ClassVar

from orchestrator.engine.api import Label
from orchestrator.sessions.identity import Identity, this_process
from tests.faults.case import FaultCase, repeated
from tests.faults.daemon import Daemon, no_sweeps
from tests.faults.private_daemon import PrivateDaemon
from tests.faults.process import ROOT, OwnerProcess

_NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
_INITIAL = 0xEFFFFFFC  # the PID namespace that sees all others


class SweepTest(FaultCase):
    """Judged by identity, never by age or pid alone. On a daemon that nobody else has."""

    judged = True
    private: ClassVar[PrivateDaemon]

    @classmethod
    def make_daemon(cls) -> Daemon:
        """The daemon to use, which the class may kill: a private one."""
        cls.private = PrivateDaemon()
        cls.addClassCleanup(cls.private.close)
        return Daemon(cls.private.start().url)

    def _ends(self, owner: OwnerProcess) -> None:
        """It ends before its way to the daemon is closed, and so does its watchdog."""
        self.assert_ends(owner, 0, since=owner.go())
        owner.await_watchdogs()

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
        argv = [*before, sys.executable, "-m", "orchestrator", "reap", "--json", "--run"]
        said = subprocess.run(
            [*argv, self.run_id, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=False,
            timeout=120,
            env=os.environ | {"DOCKER_HOST": self.daemon.url},
        ).stdout
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
        """R14 The next start removes what a killed watchdog left, unless another process sweeps."""
        before = dataclasses.replace(this_process(), boot=str(uuid.uuid4()))
        dead = [self._orphans(), self.plant(before)]
        with no_sweeps(self.daemon.url):
            owner = self.started("normal")
            for session in dead:
                self.assertNotEqual([], self.daemon.left(session, Label.SESSION))
        second = self.started("normal")
        self.assertEqual([[], []], [self.daemon.left(session, Label.SESSION) for session in dead])
        owner.go()
        self._ends(second)

    def reap_refused(self, *arguments: str, before: Sequence[str] = ()) -> dict[str, Any]:
        """Reap, and remove nothing."""
        report = self.reap(*arguments, before=before)
        self.assertEqual([], report["removed"])
        return report

    @repeated(3)
    def test_r15_planted(self) -> None:
        """R15 Only the provably dead go, a reused pid too; others by age; unreadable with --all."""
        me = this_process()
        dead = self.plant(dataclasses.replace(me, start=me.start - 1))
        other = dataclasses.replace(me, boot=str(uuid.uuid4()))
        unknown = {
            self.plant(dataclasses.replace(other, host="elsewhere/1f")),
            self.plant(dataclasses.replace(other, host=me.host.partition("/")[0] + "/")),
        }
        good, true = me.to_label(), me.to_label().replace(f'"pid":{me.pid}', '"pid":true')
        labels = ("", "null", "[" * 10_000, good.replace('"pid":', '"pid":-'), true)
        malformed = {self.plant(label) for label in labels}
        report = self.reap()
        self.assertEqual({dead}, self.sessions(report["removed"]))
        self.assertEqual(unknown | malformed, self.sessions(report["kept"]))
        report = self.reap("--older-than", "2h")
        self.assertEqual(unknown, self.sessions(report["removed"]))
        self.assertEqual(malformed, self.sessions(report["kept"]))
        self.assertEqual(malformed, self.sessions(self.reap("--all")["removed"]))

    @repeated(5)
    @unittest.skipIf(os.geteuid(), "a PID namespace takes root")
    def test_r15_namespaces(self) -> None:
        """R15 In another PID namespace the living stay, the dead go; from inside by age alone."""
        outside, inside = self.started("wait"), self.started("wait", before=_NAMESPACE)
        self.reap_refused()
        dead = self._orphans()
        inside.kill()  # and all of its namespace, the watchdog too
        inside.wait()
        report = self.reap_refused(before=_NAMESPACE)
        self.assertEqual({outside.session, inside.session, dead}, self.sessions(report["kept"]))
        self.assert_untouched(outside)
        if os.stat("/proc/self/ns/pid").st_ino == _INITIAL:  # noqa: PTH116
            removed = self.sessions(self.reap("--session", inside.session)["removed"])
            self.assertEqual({inside.session}, removed)
        since = outside.kill()
        self.reap("--older-than", "0s", before=_NAMESPACE)
        self.assert_nothing_left(outside, inside, since=since)

    @repeated(3)
    def test_r12_daemon_crashes(self) -> None:
        """R12 A daemon that is away is waited for, but not by the process, which says so."""
        ending, killed = (self.started(it, judged=False) for it in ("normal", "wait"))
        self.private.kill()
        ending.go()
        since = killed.kill()
        self.assertEqual(0, ending.wait())
        self.assertIn("python -m orchestrator reap", ending.errors())
        killed.wait()
        self.private.start()
        self.assert_nothing_left(ending, killed, since=since)

    @repeated(3)
    def test_r13_daemon_hangs(self) -> None:
        """R13 A daemon that hangs keeps no process from ending; it says so, or is waited for."""
        endings = ("normal", "wait", "wait")
        ending, terminated, killed = (self.started(it, judged=False) for it in endings)
        self.private.signal(signal.SIGSTOP)
        try:
            since = ending.go()
            terminated.kill(signal.SIGTERM)
            killed.kill()
            for owner, status in ((ending, 0), (terminated, -signal.SIGTERM)):
                self.assertEqual(status, owner.wait())
                self.assertIn(owner.session, owner.errors())
                self.assertIn("python -m orchestrator reap", owner.errors())
        finally:
            self.private.signal(signal.SIGCONT)
        self.assert_nothing_left(ending, terminated, killed, since=since)

    @repeated(10)
    def test_r16_several_reapers_at_once(self) -> None:
        """R16 Two reapers and a start at once all succeed, and nothing is left."""
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
            for _ in range(2)
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
