"""How a worker is made to stop: by the parent's signal, or because the parent is gone.

SIGINT and SIGTERM are the tests' own: the runner interrupts with a signal that no test uses.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from os import close, getpid, killpg, pipe
from pathlib import Path
from select import poll
from signal import pthread_kill
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final

from orchestrator.runner.channel import identity, moved_up
from orchestrator.runner.messages import INTERRUPT

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from orchestrator.runner.options import Timeouts

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

    The thread is not there while the process forks, or Python would warn (from 3.12 on).

    Args:
        lifeline: The reading end of a pipe; only the parent holds the other.
        timeouts: How long the running test has, and the clean-ups after its interruption.
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
