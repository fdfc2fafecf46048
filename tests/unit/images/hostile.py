"""A web server that answers whatever a test wants, whole or not, with or without TLS."""

from __future__ import annotations

import contextlib
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from tests.support.registries import make_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

PIECE = b" " * (1 << 16)
MOST = 64 << 20  # bytes of an endless body, when nobody hangs up


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request, as it came."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    authorization: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is answered."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Iterable[bytes] = ()  # pieces, sent until the client hangs up
    raw: Iterable[bytes] = ()  # pieces to send instead of an HTTP answer
    pause: float = 0.0  # seconds between two pieces


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server."""

    host: str  # and port
    asked: list[Asked] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)  # bytes of each body so far


@contextlib.contextmanager
def server(
    answer: Answer | Callable[[Asked], Answer], *, tls: Path | None = None
) -> Iterator[Server]:
    """Serve on 127.0.0.1, with a certificate of a CA of its own in the folder ``tls``.

    In a header, HERE becomes host and port.
    """
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        timeout = 5.0

        def _serve(self) -> None:
            url = urlsplit(self.path)
            form = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
            asked = Asked(
                method=self.command,
                path=url.path,
                query=parse_qs(form or url.query),
                authorization=self.headers.get("Authorization", ""),
            )
            found.asked.append(asked)
            self._send(answer if isinstance(answer, Answer) else answer(asked))

        do_GET = do_POST = _serve  # noqa: N815 - the base class looks for these names

        def _send(self, what: Answer) -> None:
            if not what.raw:
                self.send_response(what.status)
                for name, value in what.headers.items():
                    self.send_header(name, value.replace("HERE", found.host))
                self.end_headers()
            found.sent.append(0)
            number = len(found.sent) - 1  # clients here ask one thing after the other
            with contextlib.suppress(OSError):
                for piece in what.raw or what.body:
                    self.wfile.write(piece)
                    found.sent[number] += len(piece)
                    if found.sent[number] > MOST or over.wait(what.pause):
                        break

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """Say nothing of clients that do not finish a handshake."""

    running = Quiet(("127.0.0.1", 0), Handler)
    address = running.server_address
    found = Server(host=f"127.0.0.1:{address[1]}")
    if tls:
        make_certificate(tls, "127.0.0.1")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "server.crt", tls / "server.key")
        running.socket = context.wrap_socket(running.socket, server_side=True)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield found
    finally:
        over.set()
        running.shutdown()
        thread.join()
        running.server_close()
