"""The first answer of each server, asked for in the words of its protocol.

Written apart from orchestrator's own probes on purpose: what judges them must not be them.
`python -m tests.benchmarks.protocol SERVICE PORT` prints the time.monotonic() of the answer.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_INTERVAL: Final = 0.002
_PATIENCE: Final = 1.0
_DEADLINE: Final = 120.0


def _postgres(server: socket.socket) -> bool:
    """It asks who we are (R); while it starts, or in its temporary life, it says otherwise."""
    body = struct.pack("!hh", 3, 0) + b"user\0benchmark\0\0"
    server.sendall(struct.pack("!i", len(body) + 4) + body)
    return server.recv(1) == b"R"


def _redis(server: socket.socket) -> bool:
    """It answers PING, if only to say that it wants a password."""
    server.sendall(b"*1\r\n$4\r\nPING\r\n")
    return server.recv(7) in (b"+PONG\r\n", b"-NOAUTH")


def _kafka(server: socket.socket) -> bool:
    """It lists a broker that takes requests: Metadata, version 5, about no topic."""
    body = struct.pack("!hhih", 3, 5, 7, -1) + struct.pack("!ib", 0, 0)
    server.sendall(struct.pack("!i", len(body)) + body)
    answer = b""
    while len(answer) < 16:
        part = server.recv(16 - len(answer))
        if not part:
            return False
        answer += part
    _, correlation, _, brokers = struct.unpack("!iiii", answer)
    return bool(correlation == 7 and brokers > 0)


_QUESTIONS: Final[Mapping[str, Callable[[socket.socket], bool]]] = {
    "postgres": _postgres,
    "redis": _redis,
    "kafka": _kafka,
}


def first_answer(service: str, port: int) -> float:
    """Ask every two milliseconds until a server answers; the time.monotonic() of its answer."""
    deadline = time.monotonic() + _DEADLINE
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE) as server:
                if _QUESTIONS[service](server):
                    return time.monotonic()
        except OSError:
            pass
        time.sleep(_INTERVAL)
    raise TimeoutError(f"{service} on port {port} did not answer in {_DEADLINE:g} s")


if __name__ == "__main__":
    print("asking", flush=True)
    print(first_answer(sys.argv[1], int(sys.argv[2])))
