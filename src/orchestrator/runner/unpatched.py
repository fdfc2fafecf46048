"""What a worker keeps out of its tests' reach: functions, descriptors, signals, and how it ends.

Tests replace names in modules: ``mock.patch("os.getpid")``, freezegun, gevent. What stands here was
taken before any of them was imported: functions are held themselves, and JSON by a copy of its
modules that nobody else has. So `channel`, `messages`, `result`, `suite` and `worker` take from
here whatever a worker calls from the first test to the last. SIGINT and SIGTERM are the tests' own:
a worker is interrupted with a signal that no test uses, or because its parent is gone.
"""

from __future__ import annotations

import _thread
import fcntl
import importlib.util
import os
import select
import signal
import sys
import threading
import time
from functools import partial
from os import killpg, pipe
from pathlib import Path
from select import poll
from signal import pthread_kill
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from orchestrator.runner.options import Timeouts

# Signals that no test is likely to use; macOS has no real-time ones.
DUMP: Final[int] = getattr(signal, "SIGRTMAX", signal.SIGUSR2 + 3) - 3
"""The signal on which a worker writes the stacks of its threads."""

INTERRUPT: Final[int] = DUMP - 1 if hasattr(signal, "SIGRTMAX") else getattr(signal, "SIGEMT", 7)
"""The signal on which a worker interrupts its test; SIGINT is the tests' own."""

_SIGNALS: Final = signal.valid_signals()
# By tests, with handlers that raise; asking for all signals takes 0.7 ms.
_HANDLED: Final = frozenset(
    getattr(signal, f"SIG{name}")
    for name in ("INT", "TERM", "HUP", "ALRM", "VTALRM", "PROF", "USR1", "USR2")
)
# What `signal` makes of a set, members of an enumeration, takes ten times as long.
_pthread_sigmask: Final[Any] = signal._signal.pthread_sigmask  # type: ignore[attr-defined]  # noqa: SLF001
_SET_DEATH_SIGNAL: Final = 1  # PR_SET_PDEATHSIG of prctl(2)
_TASKS: Final = Path("/proc/self/task")
_ENDS: Final = 0.1  # seconds for a thread that was told to end
_HIGH: Final = 512  # tests that tidy up descriptors they never opened rarely reach this far


def copy_of(module: str) -> Any:
    """A module of the standard library that nobody else has."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.loader is None:
        raise ImportError(module)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


# freezegun looks through every module for the clocks themselves: a partial is none
now: Final[Callable[[], float]] = partial(time.perf_counter)
close: Final = os.close
exc_info: Final = sys.exc_info
exit_at_once: Final = os._exit
fstat: Final = os.fstat
getpid: Final = os.getpid
read: Final = os.read
select_: Final = select.select
write: Final = os.write


def moved_up(descriptor: int) -> int:
    """Give a descriptor a high number, away from those that tests close; children have it not."""
    try:
        moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    except OSError:  # the process may open fewer descriptors than that
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - takes no keyword
        return descriptor
    close(descriptor)
    return moved


def identity(descriptor: int) -> tuple[int, int] | None:
    """Which file or socket a descriptor is; None when it is closed."""
    try:
        status = fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Interruption:
    """Raises KeyboardInterrupt in the main thread when the parent interrupts this worker, once.

    What is torn down after it is not interrupted again; the parent can still kill.
    """

    def __init__(self) -> None:
        self.came = False  # or is not to come any more
        self._held = False
        self._owner = getpid()
        signal.signal(INTERRUPT, self._on_signal)

    def undisturbed(self, act: Callable[[Any], None], argument: object) -> None:
        """Call a function that no signal, of a test's own neither, interrupts halfway."""
        came = self.came
        mask = _pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        self._held = True
        try:
            act(argument)
        finally:
            self._held = False
            _pthread_sigmask(signal.SIG_SETMASK, mask)
        if self.came and not came:
            raise KeyboardInterrupt

    def over(self) -> None:
        """Interrupt nothing from now on."""
        self.came = True

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.came or getpid() != self._owner:
            return
        self.came = True
        if not self._held:
            raise KeyboardInterrupt


class Watch:
    """Ends this worker soon after its parent has died, whatever its test does.

    Once the parent is gone, the running test may finish, is interrupted when it does not, and the
    process group is killed when that does not help. This is a thread, so it needs the interpreter:
    a test that never lets go of it is left to the watchdog of its containers.

    The thread is not there while the process forks, or Python would warn (from 3.12 on). It waits
    for the end of the *lifeline*, a pipe whose other end only the parent holds.
    """

    def __init__(self, lifeline: int, timeouts: Timeouts) -> None:
        self._lifeline = lifeline
        self._identity = identity(lifeline)
        self._timeouts = timeouts
        self._main = threading.main_thread().ident or 0
        self._alone = False
        self._thread: int | None = None
        self._wake = -1
        if sys.platform == "linux":  # a stopped process is continued at its parent's death
            import ctypes

            ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGCONT)
        self._begin()
        os.register_at_fork(before=self._pause, after_in_parent=self._begin)

    def _begin(self) -> None:
        if self._thread is not None or identity(self._lifeline) != self._identity:
            return  # where a test has closed it, the socket says between two tests what it would
        waking, wake = pipe()
        self._wake = moved_up(wake)
        running = _thread.allocate_lock()
        running.acquire()
        mask = _pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # they are for the main thread
        try:
            # Not by `threading`: a test that counts its threads must not find this one.
            _thread.start_new_thread(self._wait, (moved_up(waking), running.release))
        finally:
            _pthread_sigmask(signal.SIG_SETMASK, mask)
        running.acquire()

    def _pause(self) -> None:
        if self._thread is None or self._alone:
            return
        task, self._thread = _TASKS / str(self._thread), None
        close(self._wake)
        deadline = monotonic() + _ENDS
        while task.exists() and monotonic() < deadline:
            sleep(0)

    def _wait(self, waking: int, running: Callable[[], None]) -> None:
        self._thread = threading.get_native_id()
        running()
        poller = poll()
        for descriptor in (self._lifeline, waking):
            poller.register(descriptor, 0)  # tells of the other end's closing only
        ended = {descriptor for descriptor, _ in poller.poll()}
        close(waking)
        if self._lifeline in ended:
            self._alone = True
            sleep(self._timeouts.finish)
            pthread_kill(self._main, INTERRUPT)
            sleep(self._timeouts.teardown)
            killpg(0, signal.SIGKILL)
