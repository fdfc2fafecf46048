"""A proxy in front of a registry that fails on purpose: so often, for such paths, in such a way."""

import contextlib
import http.client
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DRIP = 0.02  # seconds between two bytes
STALLED = 60.0  # seconds until a stalled connection is let go, should the proxy not end before


@dataclass(kw_only=True)
class Fault:
    """What goes wrong, how often, for paths that match a regular expression.

    ``status`` and ``body`` are sent instead of the registry's answer, ``swap`` instead of its body
    only; ``corrupt`` changes the body's last byte. ``stall`` sends nothing any more, ``cut`` closes
    the connection, ``drip`` sends very slowly: at once, or after so many bytes of the body.
    """

    path: str = ""
    times: int = 1
    status: int = 0
    body: bytes = b""
    stall: bool = False
    drip: bool = False
    cut: bool = False
    corrupt: bool = False
    swap: bytes = b""
    after: int | None = None


@dataclass(kw_only=True)
class FaultProxy:
    """A running proxy; the first fault that fits a request is taken."""

    upstream: str
    host: str = ""  # and port
    faults: list[Fault] = field(default_factory=list)
    stalling: threading.Event = field(default_factory=threading.Event)  # a client waits in vain
    dripping: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)  # the client of a dripping body
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, path: str) -> Fault:
        """The fault of a request; without one, a fault that does nothing."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return Fault()


@contextlib.contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """A proxy in front of a registry (host and port)."""
    proxy = FaultProxy(upstream=upstream)
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        proxy.host = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.over.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultProxy
    protocol_version = "HTTP/1.1"
    timeout = STALLED

    def do_GET(self) -> None:  # the base class looks for this name
        fault = self.proxy.take(self.path)
        if fault.after is None and (fault.stall or fault.cut):
            if fault.stall:
                self.proxy.stalling.set()
                self.proxy.over.wait(STALLED)
            self.close_connection = True
        elif fault.status:
            self._answer(fault.status, {"Content-Type": "application/json"}, fault.body, Fault())
        else:
            connection = http.client.HTTPConnection(self.proxy.upstream, timeout=STALLED)
            with contextlib.closing(connection):
                headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
                connection.request(self.command, self.path, headers=headers)
                response = connection.getresponse()
                body = fault.swap or response.read()
                self._answer(response.status, dict(response.getheaders()), body, fault)

    do_HEAD = do_GET  # noqa: N815 - the same

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self, status: int, headers: dict[str, str], body: bytes, fault: Fault) -> None:
        if fault.corrupt:
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "date"):
                self.send_header(name, value)
        length = headers.get("Content-Length", len(body)) if self.command == "HEAD" else len(body)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "HEAD":
            return
        with contextlib.suppress(OSError):
            self.wfile.write(body[: fault.after])
            self.wfile.flush()
        if fault.after is not None:
            self.close_connection = True
            if fault.stall:
                self.proxy.over.wait(STALLED)
            if fault.drip:
                self._drip(body[fault.after :])

    def _drip(self, body: bytes) -> None:
        """Send byte by byte until it is over, or the client has had enough."""
        self.proxy.dripping.set()
        try:
            for byte in body:
                self.wfile.write(bytes([byte]))
                if self.proxy.over.wait(DRIP):
                    return
        except OSError:
            self.proxy.left.set()
