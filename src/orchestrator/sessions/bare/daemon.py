"""HTTP to the Docker daemon with nothing but sockets: many requests at once from one thread.

HTTP/1.0 on purpose: the daemon then answers without chunks and closes, so that an answer is simply
everything until the end.
"""

from __future__ import annotations

import select
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Address = str | tuple[str, int]
    Request = tuple[str, str, bytes]

AT_ONCE = 32
_CHUNK = 65536


class Answer:
    """One answer of the daemon; status 0 means that none came, and the body says why."""

    __slots__ = ("body", "status")

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.body = body


def parse_address(text: str) -> Address:
    """A unix socket's path, or ``host:port``."""
    if text.startswith("/"):
        return text
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def exchange(address: Address, requests: Sequence[Request], *, deadline: float) -> list[Answer]:
    """Send every request on a connection of its own and collect the answers, in order.

    Args:
        address: Where the daemon listens.
        requests: Method, path and JSON body (empty for none).
        deadline: When to stop waiting, on the clock of `time.monotonic`.
    """
    answers: list[Answer] = []
    for start in range(0, len(requests), AT_ONCE):
        answers += _exchange(address, requests[start : start + AT_ONCE], deadline)
    return answers


def _exchange(address: Address, requests: Sequence[Request], deadline: float) -> list[Answer]:
    answers = [Answer(0, b"") for _ in requests]
    waiting: dict[int, tuple[socket.socket, Answer]] = {}
    poller = select.poll()
    try:
        for request, answer in zip(requests, answers, strict=True):
            try:
                connection = _send(address, request, deadline)
            except OSError as error:
                answer.body = str(error).encode()
                continue
            waiting[connection.fileno()] = (connection, answer)
            poller.register(connection, select.POLLIN)
        while waiting and (left := deadline - time.monotonic()) > 0:
            for fd, _event in poller.poll(left * 1000):
                if _receive(*waiting[fd]):
                    poller.unregister(fd)
                    waiting.pop(fd)[0].close()
    finally:
        for connection, answer in waiting.values():
            connection.close()
            answer.body = b"no answer in time"
    return answers


def _send(address: Address, request: Request, deadline: float) -> socket.socket:
    method, path, body = request
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    if not isinstance(address, str) and ":" in address[0]:
        family = socket.AF_INET6
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        connection.connect(address)
        head = f"{method} {path} HTTP/1.0\r\nHost: docker\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(f"{head}\r\n".encode() + body)
    except BaseException:
        connection.close()
        raise
    return connection


def _receive(connection: socket.socket, answer: Answer) -> bool:
    """Read what is there; True when it was the end."""
    try:
        data = connection.recv(_CHUNK)
    except OSError as error:
        answer.body = str(error).encode()
        return True
    if data:
        answer.body += data
        return False
    head, _, body = answer.body.partition(b"\r\n\r\n")
    try:
        answer.status = int(head.split(None, 2)[1])
    except (IndexError, ValueError):
        answer.body = b"the answer was cut off"
    else:
        answer.body = body
    return True
