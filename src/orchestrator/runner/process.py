"""The parent's handle on one worker process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from orchestrator.runner.channel import ParentEnd
from orchestrator.runner.protocol import DUMP, INTERRUPT

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST_READ: Final = 1 << 22


class Process:
    """A worker in a session (and so a process group) of its own.

    Its stdout and stderr go into one unlinked file that the parent reads by offset: there is no
    pipe that a grandchild could hold open, and raw writes are captured like prints.
    """

    def __init__(self, *, environ: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        look, self._lifeline = os.pipe()
        self._output = _unlinked_file()
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
                stdout=self._output,
                stderr=self._output,
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

    def output_size(self) -> int:
        """How much it has written so far, in bytes."""
        return os.fstat(self._output).st_size

    def output(self, start: int, end: int | None = None) -> str:
        """What it wrote between two offsets; of very much, the end."""
        size = self.output_size()
        end = size if end is None else min(end, size)
        shown = max(start, end - _LONGEST_READ)
        text = os.pread(self._output, max(0, end - shown), shown).decode(errors="backslashreplace")
        return f"… {shown - start} bytes left out …\n{text}" if shown > start else text

    def close(self) -> None:
        """Close the socket, drop the output, let the worker's watchdog remove what is left."""
        self.channel.close()
        os.close(self._lifeline)
        os.close(self._output)

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


def _unlinked_file() -> int:
    """A file without a name; appending, so that a test that truncates it leaves no hole."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-") as folder:
        return os.open(
            os.path.join(folder, "output"),  # noqa: PTH118 - os.open takes it as it is
            os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
            0o600,
        )
