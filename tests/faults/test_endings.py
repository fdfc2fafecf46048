"""R1, R2, R5, R17: endings in which the process itself still has a say."""

from __future__ import annotations

import os
import pty
import signal
import sys
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

    def _ends(self, ending: str, *, status: int, **options: object) -> None:
        owner = self.started(ending, **options)
        since = owner.go()
        self.assertEqual(status, owner.wait(), owner.errors())
        self.assertEqual([], self.daemon.left(self.run_id), "left at the moment of its end")
        self.assert_nothing_left(owner, since=since)

    @repeated(20)
    def test_r01_normal_exit(self) -> None:
        """R1 A process that ends normally leaves nothing at the moment of its end."""
        self._ends("normal", status=0)

    @repeated(10, containers=10)
    def test_r01_normal_exit_with_ten_containers(self) -> None:
        """R1 Ten containers are gone when the process is."""
        self._ends("normal", status=0, containers=10)

    @repeated(5)
    def test_r01_sys_exit(self) -> None:
        """R1 sys.exit leaves nothing, and its status stays."""
        self._ends("leave", status=3)

    @repeated(5)
    def test_r02_error_in_set_up(self) -> None:
        """R2 An exception that ends the process leaves nothing."""
        self._ends("error", status=1)

    def _signalled(self, number: signal.Signals) -> None:
        owner = self.started("wait")
        since = owner.kill(number)
        self.assertEqual(-number, owner.wait(), owner.errors())
        self.assertEqual([], self.daemon.left(self.run_id), "left at the moment of its end")
        self.assert_nothing_left(owner, since=since)

    @repeated(20)
    def test_r05_sigterm(self) -> None:
        """R5 SIGTERM cleans up first, and the process still dies of SIGTERM."""
        self._signalled(signal.SIGTERM)

    @repeated(20)
    def test_r05_sighup(self) -> None:
        """R5 SIGHUP cleans up first, and the process still dies of SIGHUP."""
        self._signalled(signal.SIGHUP)

    @repeated(20)
    def test_r05_sigterm_twice(self) -> None:
        """R5 A second SIGTERM does not cut the clean-up short: in a container none could finish."""
        owner = self.started("wait")
        since = owner.kill(signal.SIGTERM)
        owner.kill(signal.SIGTERM)
        self.assertEqual(-signal.SIGTERM, owner.wait())
        self.assertEqual([], self.daemon.left(self.run_id), "left at the moment of its end")
        self.assert_nothing_left(owner, since=since)

    @repeated(5)
    def test_r17_closed_output(self) -> None:
        """R17 A process whose stdout and stderr are closed leaves nothing."""
        self._ends("closed_output", status=0)

    @repeated(5)
    def test_r17_closed_terminal(self) -> None:
        """R17 A terminal that closes (SIGHUP, and writes that fail) leaves nothing."""
        ours, theirs = pty.openpty()
        owner = self.started(
            "wait", before=[sys.executable, "-c", _OPEN_TERMINAL, os.ttyname(theirs)]
        )
        os.close(theirs)
        os.close(ours)
        since = owner.kill(0)
        self.assertEqual(-signal.SIGHUP, owner.wait(), owner.errors())
        self.assert_nothing_left(owner, since=since)
