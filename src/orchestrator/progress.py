"""News of what takes a while, such as a pull: told where it happens, shown by the test command.

The command puts the path of a datagram socket into ``ORCHESTRATOR_PROGRESS``. Without it, and when
nobody listens any more, telling does nothing.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from typing import Final

VARIABLE: Final = "ORCHESTRATOR_PROGRESS"
_PATIENCE: Final = 0.1  # seconds: a reader that is busy loses some news, and stops nobody


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


class Listener:
    """Where news arrive, for a selector.

    Args:
        folder: Where the socket is made; nobody else should be able to write there.
    """

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, "progress")  # noqa: PTH118 - for the environment
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0)
        self._socket.bind(self.path)
        self.fileno = self._socket.fileno
        self.close = self._socket.close

    def news(self) -> list[tuple[str, str, bool]]:
        """What has arrived: about what, the text, and whether it is the last."""
        found = []
        with suppress(BlockingIOError):
            while line := self._socket.recv(1 << 16):
                with suppress(ValueError, TypeError):  # anybody's with the variable
                    about, text, over = json.loads(line)
                    found.append((str(about), str(text), bool(over)))
        return found
