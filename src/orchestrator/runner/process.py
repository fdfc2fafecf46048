"""The parent's handle on one worker process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator.runner.channel import ParentEnd
from orchestrator.runner.output import OutputFiles
from orchestrator.runner.protocol import DUMP, INTERRUPT

if TYPE_CHECKING:
    from collections.abc import Mapping


class Process:
    """A worker in a session (and so a process group) of its own.

    Attributes:
        output: What it writes.
    """

    def __init__(self, *, environ: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        look, self._lifeline = os.pipe()
        self.output = OutputFiles()
        with theirs, os.fdopen(look):
            self._popen = subprocess.Popen(
                [
                    sys.executable,
                    *_interpreter_flags(),
                    "-u",
                    "-m",
                    "orchestrator.runner",
                    str(theirs.fileno()),
                    str(look),
                ],
                stdin=subprocess.DEVNULL,
                stdout=self.output.out,
                stderr=self.output.err,
                pass_fds=[theirs.fileno(), look],
                start_new_session=True,
                env=dict(environ),
            )
        self.channel = ParentEnd(ours)

    @property
    def pid(self) -> int:
        """The process id, and the id of its group."""
        return self._popen.pid

    def ended(self) -> bool:
        """Whether it has ended; it stays a zombie until `bury`, so its pid cannot be reused."""
        if self._popen.returncode is not None:
            return True
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, options) is not None

    def bury(self) -> int:
        """Kill what is left of its group, and reap it.

        Returns:
            Its exit status; a negative one is the signal that killed it.
        """
        self.kill()
        return self._popen.wait()

    def dump_stacks(self) -> None:
        """Have it write the stacks of all its threads to its output; wakes it when stopped."""
        self._signal(DUMP)
        self._signal(signal.SIGCONT)

    def interrupt(self) -> None:
        """Ask for a graceful end: the test is interrupted and everything is torn down."""
        self._signal(INTERRUPT)
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it and everything in its group at once."""
        if self._popen.returncode is None:
            self._signal_group(signal.SIGKILL)

    def close(self) -> None:
        """Close the socket, drop the output, let the worker's watchdog remove what is left."""
        self.channel.close()
        os.close(self._lifeline)
        self.output.close()

    def _signal(self, number: int) -> None:
        if self._popen.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _signal_group(self, number: int) -> None:
        # macOS says EPERM for a group in which only zombies are left
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def _interpreter_flags() -> list[str]:
    """``-W``, ``-X`` and their like, as this interpreter was given them."""
    # multiprocessing starts its children with the same function; there is no public one
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001
    return flags
