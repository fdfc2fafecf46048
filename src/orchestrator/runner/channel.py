"""The two ends of the socket between parent and worker.

The worker's end blocks: it has nothing else to do. The parent's end never blocks, so a frozen
worker cannot freeze the run.
"""

from __future__ import annotations

import fcntl
import os
from threading import Lock
from typing import TYPE_CHECKING, Final

from orchestrator.runner import unpatched
from orchestrator.runner.messages import decode, encode

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from orchestrator.runner.messages import Message

_CHUNK: Final = 1 << 16
_HIGH: Final = 512  # tests that tidy up descriptors they never opened rarely reach this far
_FORK_ESCAPED: Final = 70
_ESCAPED: Final = b"orchestrator: a forked child returned from its test and was ended\n"


class ChannelLostError(Exception):
    """The other side is gone, or a test closed the descriptor under us."""


class WorkerEnd:
    """The worker's end.

    A test may close every descriptor it can find, fork, or fork and fall through into the runner:
    the first is noticed before a byte is written to whatever has taken the number since, and a
    forked child neither holds the socket open nor reports.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = moved_up(descriptor)
        self._identity = _identity(self._descriptor)
        self._owner = os.getpid()
        self._received = bytearray()
        self._lock = Lock()  # a test may report from threads
        os.register_at_fork(after_in_child=self._close_in_child)

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            ChannelLostError: The parent, or the descriptor, is gone.
        """
        if unpatched.getpid() != self._owner:
            # A test forked and its child came back into the runner: it must not report.
            unpatched.write(2, _ESCAPED)
            unpatched.exit_at_once(_FORK_ESCAPED)
        line = encode(message)
        with self._lock:
            self._check()
            try:
                while line:
                    line = line[unpatched.write(self._descriptor, line) :]
            except OSError as error:
                raise ChannelLostError(str(error)) from error

    def pending(self) -> bool:
        """Whether `receive` would return at once (with a message, or because the parent died)."""
        self._check()
        return bool(self._received) or bool(unpatched.select_([self._descriptor], [], [], 0)[0])

    def receive(self) -> Message | None:
        """Wait for a message; None when the parent is gone.

        Raises:
            ChannelLostError: The descriptor is gone.
        """
        self._check()
        while b"\n" not in self._received:
            try:
                chunk = unpatched.read(self._descriptor, _CHUNK)
            except ConnectionError:
                chunk = b""
            if not chunk:
                return None
            self._received += chunk
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received = bytearray(rest)
        return decode(line)

    def _check(self) -> None:
        if not self._is_open():
            raise ChannelLostError("the descriptor of the runner's socket was closed")

    def _is_open(self) -> bool:
        try:
            return _identity(self._descriptor) == self._identity
        except OSError:
            return False

    def _close_in_child(self) -> None:
        if self._is_open():  # not so in a child of a child
            unpatched.close(self._descriptor)


class ParentEnd:
    """The parent's end: what cannot be sent yet waits in a buffer."""

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(0)
        self._socket = end
        self._received = bytearray()
        self._outgoing = bytearray()

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return self._socket.fileno()

    @property
    def unsent(self) -> bool:
        """Whether something waits to be sent: select for writing."""
        return bool(self._outgoing)

    def send(self, message: Message) -> None:
        """Queue a message and send what the socket takes."""
        self._outgoing += encode(message)
        self.flush()

    def flush(self) -> None:
        """Send what the socket takes; a dead worker is noticed on the reading side."""
        try:
            while self._outgoing:
                sent = self._socket.send(self._outgoing)
                del self._outgoing[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._outgoing.clear()

    def read(self, *, lost: Callable[[], object]) -> Iterator[Message]:
        """Every complete message that has arrived; calls ``lost`` after the last one ever."""
        ended = False
        try:
            while chunk := self._socket.recv(_CHUNK):
                self._received += chunk
            ended = True
        except BlockingIOError:
            pass
        except OSError:
            ended = True
        *lines, rest = bytes(self._received).split(b"\n")
        self._received = bytearray(rest)
        for line in lines:
            yield decode(line)
        if ended:
            lost()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def moved_up(descriptor: int) -> int:
    """Give a descriptor a high number, away from those that tests close; children have it not."""
    try:
        moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    except OSError:  # the process may open fewer descriptors than that
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - takes no keyword
        return descriptor
    os.close(descriptor)
    return moved


def _identity(descriptor: int) -> tuple[int, int]:
    status = unpatched.fstat(descriptor)
    return status.st_dev, status.st_ino
