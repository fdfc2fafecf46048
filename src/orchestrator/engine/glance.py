"""One look at the images of a local daemon, without docker-py, which takes 0.1 s to import.

`pull` runs in front of every CI job and mostly finds everything in place. Whatever is not plain
here (a remote daemon, TLS, an error) is left to the engine.
"""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Final

from orchestrator.engine.image_info import image_info
from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from orchestrator.engine.endpoint import Endpoint
    from orchestrator.engine.port import ImageInfo

_API: Final = "v1.24"  # old enough for every daemon that is still in use
_PATIENCE: Final = 5.0  # seconds
_PIECE: Final = 1 << 16


class Glance:
    """Looks for images through the daemon's unix socket."""

    def __init__(self, path: str) -> None:
        self._path = path

    def image(self, reference: str, /) -> ImageInfo | None:
        """The image under a reference, digest or id, or None when it is not on this machine.

        Raises:
            EngineError: It cannot be told in this way.
        """
        try:
            answer = self._ask(f"/images/{reference}/json")
        except OSError as error:
            raise EngineError(f"no plain answer from {self._path}: {error}") from error
        head, _, body = answer.partition(b"\r\n\r\n")
        status = head.split(b" ", 2)[1:2]
        if status == [b"404"]:
            return None
        try:
            return image_info(json.loads(body))
        except (ValueError, KeyError, TypeError) as error:  # also what another status says
            raise EngineError(f"no plain answer from {self._path}") from error

    def _ask(self, path: str) -> bytes:
        """HTTP/1.0: the daemon sends the body as it is and closes the connection."""
        request = f"GET /{_API}{path} HTTP/1.0\r\nHost: docker\r\n\r\n"
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_PATIENCE)
            client.connect(self._path)
            client.sendall(request.encode())
            return b"".join(iter(lambda: client.recv(_PIECE), b""))


def glance_at(endpoint: Endpoint) -> Glance | None:
    """A look at a daemon, or None when it is not behind a unix socket."""
    return Glance(endpoint.socket) if endpoint.socket else None
