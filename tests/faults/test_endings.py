"""R1, R3 to R5, R7, R17, R18: endings in which the process has a say, or its children."""

import os
import pty
import signal
import sys
import time
from typing import Final

from orchestrator.engine.api import Label
from tests.faults.case import FaultCase, repeated

# Opens a terminal (a session's leader gets it as the controlling one), then becomes the owner.
_OPEN_TERMINAL: Final = """
import os, sys
os.dup2(os.open(sys.argv[1], os.O_RDWR), 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


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
