"""SIGTERM and SIGHUP: clean up first, then die of the signal as the default would.

Only the default action is ever replaced. A handler of somebody else stays: it means that the
program deals with the signal itself, and then either goes on (and still needs its services) or ends
(through atexit, or under the eyes of the watchdog). Never SIGINT: KeyboardInterrupt ends in atexit,
and a handler of ours would break ``unittest -c``.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.sessions.ending import end
from orchestrator.sessions.slot import SLOT

if TYPE_CHECKING:
    from types import FrameType

SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)
_held: Final = threading.local()  # the signal mask of a thread that is forking
_SECONDS: Final = 5.0  # CI gives 7.5 s between SIGINT and SIGTERM, 2.5 s more until SIGKILL


def arm_signals() -> None:
    """Make sure that our handlers are in place: asyncio, for one, resets them when a loop ends.

    Cheap when they are. Only the main thread can; elsewhere, and until then, the watchdog does it.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL and not _caught_in_c(number):
            signal.signal(number, _on_signal)


def disarm_signals() -> None:
    """Take no further SIGTERM or SIGHUP while cleaning up, which is bounded; Ctrl-C kills at once.

    The same request often comes twice (GNU ``timeout`` signals the process, then its group), and in
    a container the watchdog, which could finish, ends with its owner.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, signal.SIG_IGN)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def hold_signals() -> None:
    """Before a fork: what is sent to the child too early must wait.

    A forked Python child forgets the signals that came before it was set up. Where a handler is
    installed, and that is our doing, a SIGTERM of ``Process.terminate()`` would be lost.
    """
    _held.masks = [signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)]


def release_signals() -> None:
    """After a fork, in the parent."""
    for mask in vars(_held).pop("masks", ()):
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def disown_signals() -> None:
    """After a fork, in the child: it owns nothing, so its signals have the default action again."""
    for number in SIGNALS:
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, signal.SIG_DFL)
    release_signals()


def _on_signal(number: int, _frame: FrameType | None) -> None:
    try:
        disarm_signals()
        for session in SLOT.sessions():
            end(session, seconds=_SECONDS)
    finally:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        os._exit(128 + number)  # as PID 1 of a container, the signal did nothing


def _caught_in_c(number: int) -> bool:
    """Whether a handler was installed behind Python's back, such as faulthandler's."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        caught = int(status.partition("SigCgt:")[2].split(None, 1)[0], 16)
    except (OSError, IndexError, ValueError):
        return False
    return bool(caught >> (number - 1) & 1)
