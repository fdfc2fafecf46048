"""The two ends of the socket between parent and worker, and the memory that they share.

The worker's end blocks: it has nothing else to do. The parent's end never blocks, so a frozen
worker cannot freeze the run.
"""

from __future__ import annotations

import mmap
import os
import struct
from threading import Lock
from typing import TYPE_CHECKING, Final

from orchestrator.runner import unpatched
from orchestrator.runner.messages import decode, encode
from orchestrator.runner.unpatched import identity, moved_up

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from orchestrator.runner.messages import Message

_CHUNK: Final = 1 << 16
_SCORES: Final = 1 << 17  # numbers on a scoreboard, of 8 bytes; tests beyond them take messages
_NONE: Final = -1.0
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
        self._identity = identity(self._descriptor)
        self._owner = os.getpid()
        self._received = b""
        self._lock = Lock()  # a test may report from threads
        os.register_at_fork(after_in_child=self._close_in_child)

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            ChannelLostError: The parent, or the descriptor, is gone.
        """
        self.end_child()
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
        line, _, self._received = self._received.partition(b"\n")
        return decode(line)

    def end_child(self) -> None:
        """End a child that a test has forked and that came back into the runner: it is silent."""
        if unpatched.getpid() != self._owner:
            unpatched.write(2, _ESCAPED)
            unpatched.exit_at_once(_FORK_ESCAPED)

    @property
    def is_lost(self) -> bool:
        """Whether a test has closed the descriptor."""
        return identity(self._descriptor) != self._identity

    def _check(self) -> None:
        if self.is_lost:
            raise ChannelLostError("the descriptor of the runner's socket was closed")

    def _close_in_child(self) -> None:
        if not self.is_lost:  # as it is in a child of a child
            unpatched.close(self._descriptor)


class WorkerScores:
    """Where a worker notes which test runs, and which have passed.

    Most tests pass, and most are quick: a message for each would take longer than they do. What
    stands in memory that the parent can read, too, is there also when the worker has crashed.
    """

    def __init__(self, descriptor: int, channel: WorkerEnd) -> None:
        self._numbers = memoryview(mmap.mmap(descriptor, 0)).cast("d")
        self._channel = channel
        os.close(descriptor)

    def running(self, ordinal: int) -> None:
        """Note the place of the test that runs now."""
        self._channel.end_child()
        self._numbers[0] = ordinal

    def over(self) -> None:
        """Note that no test runs now: what it brought is noted, or sent."""
        self._numbers[0] = _NONE

    def passed(self, ordinal: int, seconds: float) -> bool:
        """Note that a test has passed; returns whether that can be noted here."""
        if ordinal + 1 >= len(self._numbers) or self._channel.is_lost:
            return False
        self._channel.end_child()
        self._numbers[ordinal + 1] = seconds
        return True


class ParentScores:
    """What a worker has noted of the tests of its unit, in a file that it maps into its memory."""

    def __init__(self, file: int) -> None:
        os.ftruncate(file, 8 * _SCORES)
        self._file = file

    def clear(self, tests: int) -> None:
        """Forget the unit before, when a worker begins one of so many tests."""
        os.pwrite(self._file, struct.pack("d", _NONE) * min(tests + 1, _SCORES), 0)

    @property
    def running(self) -> int | None:
        """The place of the test that runs."""
        [place] = struct.unpack("d", os.pread(self._file, 8, 0))
        return None if place < 0 else int(place)

    def seconds(self, tests: int) -> memoryview[float]:
        """How long each test took that has passed; less than nothing for the others."""
        return memoryview(os.pread(self._file, 8 * tests, 8)).cast("d")


class ParentEnd:
    """The parent's end: what cannot be sent yet waits in a buffer."""

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(0)
        self._socket = end
        self._received = b""
        self.unsent = b""  # while there is some: select for writing
        self.fileno = end.fileno  # for a selector

    def send(self, message: Message) -> None:
        """Queue a message and send what the socket takes."""
        self.unsent += encode(message)
        self.flush()

    def flush(self) -> None:
        """Send what the socket takes; a dead worker is noticed on the reading side."""
        try:
            while self.unsent:
                self.unsent = self.unsent[self._socket.send(self.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self.unsent = b""

    def read(self, *, lost: Callable[[], object]) -> Iterator[Message]:
        """Every complete message that has arrived; calls ``lost`` after the last one ever."""
        ended = True
        try:
            while chunk := self._socket.recv(_CHUNK):
                self._received += chunk
        except BlockingIOError:
            ended = False
        except OSError:
            pass
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            yield decode(line)
        if ended:
            lost()
