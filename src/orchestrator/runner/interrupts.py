"""Signals to the parent, as a count that its loop looks at."""

from __future__ import annotations

import signal
import socket
import threading
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from types import FrameType, TracebackType

_ASKING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Counts Ctrl-C, SIGTERM and SIGHUP, and wakes the loop's selector; also when a child ends.

    Handlers only count: nothing is raised in the middle of the parent's books.

    Attributes:
        count: How many of them came.
        urgent: Whether it was not Ctrl-C alone: who sends SIGTERM sends SIGKILL soon.
    """

    def __init__(self) -> None:
        self.count = 0
        self.urgent = False
        self._ours, self._theirs = socket.socketpair()
        for end in (self._ours, self._theirs):
            end.settimeout(0)
        self._previous: dict[int, Any] = {}
        self._wakeup = -1

    def fileno(self) -> int:
        """The descriptor that becomes readable on a signal."""
        return self._ours.fileno()

    def drain(self) -> None:
        """Forget that the selector was woken; the count stays."""
        try:
            while self._ours.recv(1024):
                pass
        except BlockingIOError:
            pass

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread may take signals
        self._wakeup = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        for number in _ASKING:
            # nohup and `command &` ignore a signal on purpose: keep it so
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._on_signal)
        self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _wake)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self._previous:
            signal.set_wakeup_fd(self._wakeup)
        self._ours.close()
        self._theirs.close()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.urgent |= number != signal.SIGINT
        self.count += 1


def _wake(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the wake-up descriptor has woken the loop already."""
