"""Long answers of the daemon that nobody may want to hear to the end.

Who waits for what the daemon says next cannot look whether somebody still wants it. So a thread of
its own waits, and when nobody wants it any more the connection is cut: the daemon cancels a pull or
a build whose client is gone.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from typing import TYPE_CHECKING, Final, TypeVar

from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

T = TypeVar("T")

_LOOK: Final = 0.1  # seconds between two looks whether somebody still listens


class Line:
    """The connection an answer comes on, which another thread than the one that reads can cut."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._response: requests.Response | None = None
        self._cut = False
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def carrying(self, response: requests.Response) -> Iterator[None]:
        """Around the reading of an answer.

        Raises:
            EngineError: The line was cut before the answer began.
        """
        with self._lock:
            if self._cut:
                raise self.error()
            self._response = response
        try:
            yield
        finally:
            with self._lock:
                self._response = None

    def cut(self) -> None:
        """Cut it: at once while an answer comes, else when one begins.

        Over ssh, where the connection is another program's, it ends with the next word.
        """
        with self._lock:
            self._cut = True
            if self._response is not None:
                # No socket over ssh, and none once the answer is over.
                with contextlib.suppress(OSError, ValueError):
                    number = self._response.raw.fileno()
                    with socket.fromfd(number, socket.AF_UNIX, socket.SOCK_STREAM) as same:
                        same.shutdown(socket.SHUT_RDWR)

    def error(self) -> EngineError:
        """What a reader is told whose answer was not wanted any more."""
        return EngineError(f"Stopped waiting for the Docker daemon to {self._doing}")


def until_stopped(
    steps: Iterator[T], line: Line, *, stopping: threading.Event | None
) -> Iterator[T]:
    """What the daemon says, until it is done or nobody listens any more.

    Args:
        steps: Says it; without ``stopping`` it is read as it is, else by a thread of its own.
        line: What `steps` carries its answer on.
        stopping: Set by whoever does not want the rest.

    Raises:
        EngineError: It was stopped, or what `steps` raised.
    """
    if stopping is None:
        yield from steps
        return
    if stopping.is_set():
        raise line.error()
    said: queue.SimpleQueue[T | BaseException | None] = queue.SimpleQueue()

    def listen() -> None:
        try:
            for step in steps:
                said.put(step)
        except BaseException as error:  # noqa: BLE001  # raised where it is waited for
            said.put(error)
        else:
            said.put(None)

    # A daemon thread: before an answer begins nothing can be cut, and no exit waits for it.
    threading.Thread(target=listen, name="orchestrator-daemon", daemon=True).start()
    try:
        while not stopping.is_set():
            with contextlib.suppress(queue.Empty):
                step = said.get(timeout=_LOOK)
                if step is None:
                    return
                if isinstance(step, BaseException):
                    raise step
                yield step
        raise line.error()
    finally:
        line.cut()
