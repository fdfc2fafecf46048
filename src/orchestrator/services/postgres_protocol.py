"""The first words of PostgreSQL's protocol, which need no driver and no password."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from orchestrator.probes import NotReadyError
from orchestrator.probes.target import connect

if TYPE_CHECKING:
    from orchestrator.probes.target import Target

_PROTOCOL_3: Final = 196608


def asks_for_password(target: Target) -> None:
    """Return when the server lets clients in.

    Raises:
        NotReadyError: It answers, but says that it is not ready.
    """
    with connect(target) as connection:
        user = b"user\0orchestrator\0\0"
        connection.sendall(struct.pack("!ii", 8 + len(user), _PROTOCOL_3) + user)
        answer = connection.recv(1024)
    if answer[:1] != b"R":  # R asks for authentication; E says "the database is starting up"
        words = answer[5:].replace(b"\0", b" ").decode(errors="replace").strip()
        raise NotReadyError(words or "the connection was closed")
