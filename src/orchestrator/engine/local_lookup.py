"""A quick look for images on a local daemon, without docker-py.

`pull` runs in front of every CI job and mostly finds everything in place. Importing docker-py and
requests would more than double its time, and even the standard library's HTTP client is a third of
it. Whatever is not plain here (a remote daemon, TLS, an error) is left to the engine.
"""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Final

from orchestrator.engine.api import image_info
from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from orchestrator.engine.api import ImageInfo
    from orchestrator.engine.endpoint import Endpoint

_TIMEOUT: Final = 5.0  # seconds
_PIECE: Final = 1 << 16


class LocalLookup:
    """Finds images through the daemon's unix socket."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._socket = endpoint.socket

    def find(self, reference: str, /) -> ImageInfo | None:
        """The image under a reference, digest or id, or None when it is not on this machine.

        Raises:
            EngineError: It cannot be told in this way.
        """
        if self._socket is None:
            raise EngineError("the daemon is not behind a unix socket")
        try:
            head, _, body = _get(self._socket, f"/images/{reference}/json").partition(b"\r\n\r\n")
            if head.split(b" ", 2)[1:2] == [b"404"]:
                return None
            return image_info(json.loads(body))
        except (OSError, ValueError, KeyError, TypeError) as error:  # also from another status
            raise EngineError(f"no plain answer from {self._socket}: {error}") from error


def _get(path: str, url: str) -> bytes:
    """HTTP/1.0: the daemon sends the body as it is and closes the connection."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_TIMEOUT)
        client.connect(path)
        client.sendall(f"GET {url} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
        return b"".join(iter(lambda: client.recv(_PIECE), b""))
