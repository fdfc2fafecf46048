"""R1, R3 to R5, R17: endings in which the process itself still has a say.

R1 to R3, R5 and R6 under unittest are in ``test_unittest``.
"""

from __future__ import annotations

import os
import pty
import signal
import sys
import time
from typing import Final

from tests.faults.case import FaultCase, repeated

# Opens a terminal (a session's leader gets it as the controlling one), then becomes the owner.
_OPEN_TERMINAL: Final = """
import os, sys
os.dup2(os.open(sys.argv[1], os.O_RDWR), 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


class EndingTest(FaultCase):
    """The process gets to run its exit handlers."""

    @repeated(20)
    def test_r01_normal_exit(self) -> None:
        """R1 A process that ends normally leaves nothing at the moment of its end."""
        owner = self.started("normal")
        self.assert_ends(owner, 0, since=owner.go(), at_once=True)

    @repeated(20)
    def test_r03_interrupt(self) -> None:
        """R3 Ctrl-C leaves nothing, and the status says so."""
        owner = self.started("wait")
        self.assert_ends(owner, -signal.SIGINT, since=owner.kill(signal.SIGINT), at_once=True)

    @repeated(20)
    def test_r04_interrupt_twice(self) -> None:
        """R4 A second Ctrl-C during clean-up leaves nothing."""
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
    def test_r17_closed_output(self) -> None:
        """R17 A process whose stdout and stderr are closed leaves nothing."""
        owner = self.started("closed_output")
        self.assert_ends(owner, 0, since=owner.go(), at_once=True)

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
