"""R1, R3 to R5, R7, R17, R18: endings in which the process has a say; daemons elsewhere."""

import os
import pty
import shutil
import signal
import ssl
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Final

from orchestrator.engine.api import Label
from orchestrator.services.tls import Tls
from tests.faults.case import THOROUGH, FaultCase, repeated
from tests.faults.proxy import Proxy
from tests.support.sshd import ssh_server

# Opens a terminal (a session's leader gets it as the controlling one), then becomes the owner.
_OPEN_TERMINAL: Final = """
import os, sys
os.dup2(os.open(sys.argv[1], os.O_RDWR), 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


# A signal's handler has five seconds, and a busy machine may log in later; the watchdog has more.
_LATE = r"\A(orchestrator: it is not known what is left .* Its watchdog goes on .*\n)?\Z"


class EndingTest(FaultCase):
    """The process gets to run its exit handlers, has handlers of its own, or children."""

    @repeated(20)
    def test_r01_r17_normal_exit(self) -> None:
        """R1 R17 A normal end, with stdout and stderr closed too, leaves nothing at its moment."""
        owner = self.started("closed_output")
        self.assert_ends(owner, 0, since=owner.go(), at_once=True)

    @repeated(20)
    def test_r03_r04_interrupt_twice(self) -> None:
        """R3 R4 Ctrl-C leaves nothing, nor does a second one meanwhile; the status says so."""
        owner = self.started("wait", containers=4)
        since = owner.kill(signal.SIGINT)
        time.sleep(0.12)
        if owner.poll() is None:
            owner.kill(signal.SIGINT)
        self.assert_ends(owner, -signal.SIGINT, since=since)

    @repeated(20)
    def test_r05_sigterm_twice(self) -> None:
        """R5 A second SIGTERM does not cut the clean-up short: in a container none could finish."""
        owner = self.started("wait")
        since = owner.kill(signal.SIGTERM)
        owner.kill(signal.SIGTERM)
        self.assert_ends(owner, -signal.SIGTERM, since=since, at_once=True)

    @repeated(5)
    def test_r17_closed_terminal(self) -> None:
        """R17 A terminal that closes (SIGHUP, and writes that fail) leaves nothing."""
        ours, theirs = pty.openpty()
        owner = self.started(
            "wait", before=[sys.executable, "-c", _OPEN_TERMINAL, os.ttyname(theirs)]
        )
        os.close(theirs)
        os.close(ours)
        self.assert_ends(owner, -signal.SIGHUP, since=owner.kill(0), at_once=True)

    @repeated(5)
    def test_r18_handler_that_ends_the_process(self) -> None:
        """R18 A program's own handler decides the status, and nothing is left."""
        owner = self.started("handled")
        self.assert_ends(owner, 7, since=owner.kill(signal.SIGTERM))

    @repeated(5)
    def test_r18_handler_that_goes_on(self) -> None:
        """R18 A program that takes note of SIGTERM and ignores SIGHUP keeps its services."""
        owner = self.started("goes_on")
        owner.kill(signal.SIGHUP)
        owner.kill(signal.SIGTERM)
        owner.expect("noted")
        self.assert_untouched(owner)
        self.assert_ends(owner, 0, since=owner.go())

    @repeated(5)
    def test_r18_after_an_event_loop(self) -> None:
        """R18 asyncio resets handlers when a loop ends; ours is back at the next create."""
        owner = self.started("after_asyncio")
        since = owner.kill(signal.SIGTERM)
        self.assert_ends(owner, -signal.SIGTERM, since=since, at_once=True)

    @repeated(20)
    def test_r07_children_that_end_do_not_reap(self) -> None:
        """R7 A forked child's sys.exit, and a terminate() at the fork, touch nothing."""
        owner = self.start("fork_exits")
        self.assertEqual([-signal.SIGTERM], owner.expect("ready")["statuses"])
        self.assert_untouched(owner)
        self.assert_ends(owner, 0, since=owner.go())

    @repeated(20)
    def test_r07_child_that_stays(self) -> None:
        """R7 A child forked behind Python's back, with every descriptor, holds up nothing."""
        owner = self.start("fork_in_c_stays")
        child = owner.expect("ready")["child"]
        self.addCleanup(os.kill, child, signal.SIGKILL)
        since = owner.kill()
        self.assert_nothing_left(owner, since=since)
        os.kill(child, 0)

    @repeated(10)
    def test_r07_child_with_a_session_of_its_own(self) -> None:
        """R7 A child owns what it creates: its death removes that, and nothing of its parent's."""
        owner = self.start("fork_owns")
        parent = owner.expect("parent")["session"]
        said = owner.expect("ready")
        self.assertNotEqual(parent, said["session"])
        os.kill(said["child"], signal.SIGKILL)
        self.daemon.await_gone(said["session"], Label.SESSION)
        owner.session = parent
        self.assert_untouched(owner)
        since = owner.kill()
        self.assert_nothing_left(owner, since=since)

    def _all_endings(self, url: str, *before: str, told: str = r"\A\Z") -> None:
        numbers = (signal.SIGTERM, signal.SIGKILL)
        owners = [self.start("wait", url=url, before=before) for _ in numbers]
        if THOROUGH:
            owner = self.started("normal", url=url, before=before)
            owner.go()
            self.assertEqual((0, ""), (owner.wait(), owner.errors()))
        for owner in owners:
            owner.expect("ready")
            self.assertEqual(1, len(owner.watchdogs()))
        for owner, number in zip(owners, numbers, strict=True):
            since = owner.kill(number)
        for owner, number in zip(owners, numbers, strict=True):
            self.assertEqual(-number, owner.wait())
            self.assertRegex(owner.errors(), told)
        self.assert_nothing_left(*owners, since=since)
        for owner in owners:
            # Before the way to the daemon is closed: it would wait for that to come back.
            owner.await_watchdogs()

    @repeated(3)
    def test_tls(self) -> None:
        """Over TLS with client certificates SIGTERM and SIGKILL leave nothing."""
        made = Tls.create(["127.0.0.1"], client="tests")
        assert made.client
        files = {"server.pem": made.server.pem, "ca.pem": made.authority}
        files |= {"cert.pem": made.client.certificate, "key.pem": made.client.key}
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name, content in files.items():
            (folder / name).write_bytes(content)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem")
        context.load_verify_locations(folder / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        settings = ["DOCKER_TLS_VERIFY=1", f"DOCKER_CERT_PATH={folder}"]
        with Proxy(self.daemon.url, tcp=True, tls=context) as proxy:
            self._all_endings(proxy.url, "/usr/bin/env", *settings)

    @repeated(3)
    def test_web_proxy(self) -> None:
        """By a web proxy, which alone knows the daemon, SIGTERM and SIGKILL leave nothing."""
        with Proxy(self.daemon.url, tcp=True) as proxy:
            by_way = f"HTTP_PROXY={proxy.url.replace('tcp:', 'http:')}"
            self._all_endings("tcp://daemon.invalid:2375", "/usr/bin/env", by_way)

    @repeated(3)
    def test_ssh(self) -> None:
        """Over ssh, to a host of ~/.ssh/config, SIGTERM and SIGKILL leave nothing."""
        if not shutil.which("docker"):
            raise unittest.SkipTest("the far end of ssh takes the docker command")
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        with ssh_server(folder, daemon=self.daemon.url) as path:
            self._all_endings("ssh://jump", "/usr/bin/env", f"PATH={path}", told=_LATE)
