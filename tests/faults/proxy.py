"""A proxy before the real daemon: makes it slow, deaf or choosy, or reachable in another way."""

import contextlib
import json
import re
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.faults.process import await_that

CUT: Final = b"cut"
_VERSION: Final = re.compile(r"/v[0-9.]+/")


def answer(status: int, message: str) -> bytes:
    """The answer of a daemon, or of a filter before it, that refuses."""
    body = json.dumps({"message": message}).encode()
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def good(body: bytes) -> bytes:
    """A daemon's answer that all is well, with this in it."""
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def forbidding(*beginnings: str) -> Callable[[str], bytes | None]:
    """A filter before the socket: requests that begin so ("GET /volumes") are forbidden."""

    def instead(line: str) -> bytes | None:
        request = _VERSION.sub("/", line)
        if request.startswith(beginnings):
            return answer(403, "Request forbidden by administrative rules")
        return None

    return instead


class Proxy:
    """Listens on a unix socket or a TCP port and forwards to a daemon's unix socket.

    A request that was read is forwarded, also when its client is gone: the daemon does not notice
    either. `before` is given what a client sends; `instead` its first line ("GET /v1.41/info
    HTTP/1.1"), and says what it gets: None for the daemon's answer, `CUT` for the end of the
    connection while the daemon does what it was asked for, else the answer itself. `tcp` is a
    port on the loopback, IPv6's where it is ``"::1"``.
    """

    def __init__(
        self,
        url: str,
        *,
        before: Callable[[bytes], None] = lambda _data: None,
        instead: Callable[[str], bytes | None] = lambda _line: None,
        tcp: bool | str = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._tls = tls
        self._daemon = url.removeprefix("unix://")
        self._before = before
        self._instead = instead
        self._answered: list[bytes] = []
        self._folder = tempfile.TemporaryDirectory(prefix="orchestrator-proxy-")
        if tcp == "::1":
            self._listener = socket.create_server((tcp, 0), family=socket.AF_INET6)
            self.url = f"tcp://[::1]:{self._listener.getsockname()[1]}"
        elif tcp:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.url = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            path = Path(self._folder.name) / "docker.sock"
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen(64)
            self.url = f"unix://{path}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._folder.cleanup()

    def wait_until_answered(self, path: bytes) -> None:
        """Wait until the daemon has answered a request for this path; AssertionError if not."""
        said = f"no request for {path.decode()} was answered"
        await_that(lambda: any(path in head for head in self._answered), said)

    def _serve(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        if self._tls is not None:
            try:
                client = self._tls.wrap_socket(client, server_side=True)
            except OSError:  # one of the two does not trust the other
                client.close()
                return
        with client, socket.socket(socket.AF_UNIX) as daemon:
            daemon.connect(self._daemon)
            asked: list[bytes] = []
            threading.Thread(target=self._copy, args=(daemon, client, asked), daemon=True).start()
            while True:
                data = _received(client)
                if not data:
                    break
                self._before(data)
                line = data.partition(b"\r\n")[0]
                answer = self._instead(line.decode(errors="replace"))
                if answer == CUT:
                    client.close()
                    daemon.sendall(data)
                elif answer is not None:
                    client.sendall(answer)
                    return
                else:
                    asked.append(line)
                    with contextlib.suppress(BrokenPipeError):  # it has answered and closed
                        daemon.sendall(data)
            time.sleep(2)  # the real daemon does not hear at once, either, that a client is gone

    def _copy(self, daemon: socket.socket, client: socket.socket, asked: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            while data := daemon.recv(65536):
                self._answered += asked
                asked.clear()
                with contextlib.suppress(OSError):
                    client.sendall(data)
            client.shutdown(socket.SHUT_WR)


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:  # told once; what the dead client had sent can still be read
        return _received(connection)
    except OSError:
        return b""
