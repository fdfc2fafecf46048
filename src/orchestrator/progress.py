"""News of what takes a while, such as a pull: told where it happens, shown while it does.

The test command puts the path of a datagram socket into ``ORCHESTRATOR_PROGRESS`` and shows what
arrives there. Without it, as under ``python -m unittest``, it is shown on this process's stderr.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from orchestrator.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE: Final = "ORCHESTRATOR_PROGRESS"
_PATIENCE: Final = 0.1  # seconds: a reader that is busy loses some news, and stops nobody
_SLOW: Final = 5.0  # seconds that a start may take without a word
_LONGEST_FOLDER: Final = 72  # bytes; what a socket's path may have, without the rest of ours
_NEWS: Final = 15.0  # seconds between two lines about one thing in a log


def tell(about: str, text: str, *, over: bool = False) -> None:
    """Tell how far something is. Call it as often as there is something new, from any thread.

    A terminal shows the latest text about each thing in its last line; a log has a line for the
    first text, one now and then, and one for the last.

    Args:
        about: What it is, such as ``"shop.CheckoutTest: db"`` or an image's name.
        text: How far it is, such as ``"pulling, 12 of 80 MB"``.
        over: Whether this is the last about it; an empty text then only takes it away.
    """
    if path := os.environ.get(VARIABLE):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.settimeout(_PATIENCE)
            end.sendto(json.dumps([about, text, over]).encode(), path)
    else:
        with suppress(OSError, ValueError, AttributeError):  # a stderr that is closed, or None
            _stderr().show(about, text, over=over)


@contextmanager
def telling(about: str, text: str, *, after: float = _SLOW) -> Iterator[None]:
    """Tell about the block, once a second, when it takes longer than some seconds."""
    began, over = time.monotonic(), threading.Event()

    def watch() -> None:
        wait = after
        while not over.wait(wait):
            tell(about, f"{text}, {time.monotonic() - began:.0f} s")
            wait = 1.0

    thread = threading.Thread(target=watch, name="orchestrator-progress", daemon=True)
    thread.start()
    outcome = "failed after"
    try:
        yield
        outcome = "took"
    finally:
        over.set()
        thread.join()
        if (seconds := time.monotonic() - began) > after:
            tell(about, f"{text} {outcome} {seconds:.1f} s", over=True)


class News:
    """The latest of everything that takes a while, for a terminal; a log has few lines of each."""

    def __init__(self, *, prefix: str = "") -> None:
        self.latest: dict[str, str] = {}
        self._prefix = prefix
        self._due: dict[str, float] = {}

    def take(self, about: str, text: str, *, over: bool) -> str:
        """Note the latest about one thing; returns the line that a log has of it, if any."""
        line, now = printable(f"{self._prefix}{about}: {text}", lines=False), time.monotonic()
        due = over or now >= self._due.get(about, 0.0)
        if over:
            self.latest.pop(about, None)
            self._due.pop(about, None)
        else:
            self.latest[about] = line
            if due:
                self._due[about] = now + _NEWS
        return line if text and due else ""


@functools.cache
def _stderr() -> _Stderr:
    return _Stderr()


class _Stderr:
    """Shows news where no test command does: in a terminal's last lines, or as lines of a log."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._news = News(prefix="orchestrator: ")
        self._drawn = 0

    def show(self, about: str, text: str, *, over: bool) -> None:
        with self._lock:
            stream, line = sys.stderr, self._news.take(about, text, over=over)
            if stream.isatty():
                size = shutil.get_terminal_size()
                latest = self._news.latest.values()
                live = [it[: size.columns - 1] for it in latest][: size.lines - 1]
                # On a line of its own: unittest's dots, which may stand there, would go with it.
                begin = "\n" if live and "unittest" in sys.modules else ""
                stream.write(f"\x1b[{self._drawn}F\x1b[0J" if self._drawn else begin)
                self._drawn = len(live)
                lines = [line, *live] if line and over else live
                stream.write("".join(f"{line}\n" for line in lines))
            elif line:
                stream.write(f"{line}\n")
            stream.flush()


class Listener:
    """Where news arrive, for a selector: a socket in a folder that nobody else can write to."""

    def __init__(self) -> None:
        # The path of a socket is short.
        place = "/tmp" if len(tempfile.gettempdir()) > _LONGEST_FOLDER else None  # noqa: S108
        self._folder = tempfile.TemporaryDirectory(prefix="orchestrator-", dir=place)
        self.path = os.path.join(self._folder.name, "progress")  # noqa: PTH118 - for the environment
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0)
        with suppress(OSError):  # some file systems have no sockets: then there are no news
            self._socket.bind(self.path)
        self.fileno = self._socket.fileno

    def close(self) -> None:
        """Hear nothing more."""
        self._socket.close()
        self._folder.cleanup()

    def news(self) -> list[tuple[str, str, bool]]:
        """What has arrived: about what, the text, and whether it is the last."""
        found = []
        with suppress(BlockingIOError):
            while line := self._socket.recv(1 << 16):
                with suppress(ValueError, TypeError):  # anybody's with the variable
                    about, text, over = json.loads(line)
                    found.append((str(about), str(text), bool(over)))
        return found
