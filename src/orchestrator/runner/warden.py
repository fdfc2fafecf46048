"""The process that ends the workers when the parent is killed.

A worker whose parent is gone stops by itself after its test. One that hangs, or is stopped, would
stay for ever: the warden waits a while, interrupts it, and at last kills it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from orchestrator.runner.patience import Patience

_POLL: Final = 0.1
_PIPE: Final = 3


class Warden:
    """The parent's end of the pipe; its closing, for whatever reason, is the alarm."""

    def __init__(self, patience: Patience) -> None:
        reading, self._writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                _detach(keep=reading)
                _watch(patience)
            finally:
                os._exit(0)
        os.close(reading)

    def watch(self, pid: int) -> None:
        """Watch a worker."""
        self._tell(f"+{pid}\n")

    def forget(self, pid: int) -> None:
        """A worker is over; its process id means nothing any more."""
        self._tell(f"-{pid}\n")

    def close(self) -> None:
        """Dismiss the warden, once every worker is forgotten."""
        os.close(self._writing)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _tell(self, line: str) -> None:
        with suppress(OSError):  # somebody killed the warden: the run goes on without
            os.write(self._writing, line.encode("ascii"))


def _detach(*, keep: int) -> None:
    """Leave the parent's session and hold none of its files open, its terminal least of all."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    os.dup2(keep, _PIPE)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    os.closerange(_PIPE + 1, os.sysconf("SC_OPEN_MAX"))


def _watch(patience: Patience) -> None:
    workers: dict[int, int | None] = {}
    with os.fdopen(_PIPE, encoding="ascii") as lines:
        for line in lines:
            pid = int(line[1:])
            if line[0] == "+":
                workers[pid] = _handle(pid)
            else:
                handle = workers.pop(pid, None)
                if handle is not None:
                    os.close(handle)
    for seconds, number in (
        (patience.finish, signal.SIGINT),
        (patience.teardown, signal.SIGKILL),
    ):
        _wait(workers, seconds)
        for pid in workers:
            with suppress(ProcessLookupError, PermissionError):
                if number == signal.SIGKILL:
                    os.killpg(pid, number)
                else:
                    os.kill(pid, number)
                    os.kill(pid, signal.SIGCONT)


def _handle(pid: int) -> int | None:
    """A handle that cannot be fooled by a reused process id, where the system has one."""
    try:
        return os.pidfd_open(pid) if sys.platform == "linux" else None
    except (OSError, AttributeError):
        return None


def _wait(workers: dict[int, int | None], seconds: float) -> None:
    """Wait until every worker is gone; those that are gone are taken off the list."""
    deadline = time.monotonic() + seconds
    while workers and time.monotonic() < deadline:
        for pid in [pid for pid, handle in workers.items() if _gone(pid, handle)]:
            del workers[pid]
        time.sleep(_POLL)


def _gone(pid: int, handle: int | None) -> bool:
    if handle is not None:
        return bool(select.select([handle], [], [], 0)[0])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return True  # reused by someone else
    return False
