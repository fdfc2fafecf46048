"""The registry's client: who is told a password, what may be sent; what became of a pull."""

import base64
import contextlib
import gzip
import hashlib
import itertools
import json
import os
import ssl
import tempfile
import threading
import time
import unittest
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, urlsplit

from orchestrator.engine.registry import RegistryClient, is_insecure
from orchestrator.errors import EngineError
from orchestrator.images.failures import Failure, attempts_worth, classify, exit_status
from tests.support.registries import make_certificate

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


class Handler(BaseHTTPRequestHandler):
    """Answers whatever a test wants, whole or not; in a header, HERE becomes host and port."""

    timeout = 5.0
    where: Server
    answer: Callable[[Asked], Answer]

    def serve(self) -> None:
        """Take note of a request, and answer it."""
        url = urlsplit(self.path)
        form = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        asked = Asked(
            method=self.command,
            path=url.path,
            query=parse_qs(form or url.query),
            authorization=self.headers.get("Authorization", ""),
        )
        self.where.asked.append(asked)
        self.send(self.answer(asked))

    do_GET = do_POST = serve  # noqa: N815 - the base class looks for these names

    def send(self, what: Answer) -> None:
        """Send until the client hangs up."""
        if not what.raw:
            self.send_response(what.status)
            for name, value in what.headers.items():
                self.send_header(name, value.replace("HERE", self.where.host))
            self.end_headers()
        sent = self.where.sent
        sent.append(0)  # clients here ask one thing after the other
        with contextlib.suppress(OSError):
            for piece in what.raw or what.body:
                self.wfile.write(piece)
                sent[-1] += len(piece)
                if sent[-1] > MOST:
                    break
                time.sleep(what.pause)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Quiet(ThreadingHTTPServer):
    """Says nothing of clients that do not finish a handshake, and does not wait for them."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Nothing."""


MANIFEST = b'{"config": {}}'
DIGEST = f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"
TOKEN = "a-token"
USER, PASSWORD = "alice", "hunter2"
BASIC = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
GOOD = Answer(body=[MANIFEST])
WHO = Answer(status=401, headers={"WWW-Authenticate": 'Basic realm="tests"'})
ENDLESS = 16 << 20  # bytes; what two socket buffers and a bounded body never reach


def refers(realm: str) -> Answer:
    """The challenge that names a token service."""
    asked = f'Bearer realm="{realm}",service="tests",scope="repository:a/b:pull"'
    return Answer(status=401, headers={"WWW-Authenticate": asked})


def moved(url: str) -> Answer:
    """A redirect."""
    return Answer(status=307, headers={"Location": url})


def with_token_service(asked: Asked) -> Answer:
    """A registry with a token service at its own place, as ghcr.io has, and Debian's has not."""
    if asked.authorization == f"Bearer {TOKEN}":
        return GOOD
    if asked.method == "POST" and asked.query["refresh_token"] == ["identity"]:
        return Answer(body=[json.dumps({"access_token": TOKEN}).encode()])
    if asked.path == "/token":
        allowed = asked.authorization == BASIC
        body = json.dumps({"token": TOKEN}).encode()
        return Answer(status=200 if allowed else 401, body=[body])
    bearer = 'Bearer realm="http://HERE/token",service="te\\sts",scope="repository:a/b:pull"'
    challenge = f'Basic realm="a, Bearer realm=\\"x\\"", {bearer}'  # beside another scheme
    return Answer(status=401, headers={"WWW-Authenticate": challenge})


class RegistryTest(unittest.TestCase):
    """A registry of a few lines, and a docker configuration of our own: passwords stay with it."""

    def setUp(self) -> None:
        """Have folders."""
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        env = {"DOCKER_CONFIG": str(self.folder), "XDG_CONFIG_HOME": str(self.folder / "config")}
        self.enterContext(mock.patch.dict(os.environ, env))

    def serve(self, answer: Answer | Callable[[Asked], Answer], *, tls: bool = False) -> Server:
        """Start a server."""
        tell = (lambda _: answer) if isinstance(answer, Answer) else answer
        handler: Any = type("Telling", (Handler,), {"answer": staticmethod(tell)})
        running = self.enterContext(Quiet(("127.0.0.1", 0), handler))
        where = handler.where = Server(host=f"127.0.0.1:{running.server_address[1]}")
        if tls:
            folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
            make_certificate(folder, "127.0.0.1")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(folder / "server.crt", folder / "server.key")
            running.socket = context.wrap_socket(running.socket, server_side=True)
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}).start()
        self.addCleanup(running.shutdown)
        return where

    def log_in(self, *servers: Server, **auth: str) -> None:
        """Do as `docker login` does."""
        auth = auth or {"auth": BASIC.removeprefix("Basic ")}
        config = {"auths": {each.host: auth for each in servers}}
        (self.folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

    def digest(self, where: Server, *, timeout: float = 20.0) -> str:
        """The digest of the manifest a/b:1."""
        return RegistryClient(timeout=timeout).manifest(where.host, "a/b", "1").digest

    def fails(self, where: Server, words: str, *, timeout: float = 20.0) -> EngineError:
        """Check that it cannot be had, and why."""
        with self.assertRaisesRegex(EngineError, words) as caught:
            self.digest(where, timeout=timeout)
        self.assertNotIn(PASSWORD, str(caught.exception))
        return caught.exception

    def test_password_and_identity_token(self) -> None:
        """They are exchanged for a token of the named scope, the latter by POST."""
        registry = self.serve(with_token_service)
        self.log_in(registry)
        self.assertEqual(DIGEST, self.digest(registry))
        [question] = [asked.query for asked in registry.asked if asked.path == "/token"]
        self.assertEqual({"service": ["tests"], "scope": ["repository:a/b:pull"]}, question)
        self.log_in(registry, identitytoken="identity", auth="eDo=")
        self.assertEqual(DIGEST, self.digest(registry))

    def test_another_host_that_asks(self) -> None:
        """Who is asked by a redirect gets no password, whichever way it asks for one."""
        for challenge in (WHO, refers("http://HERE/token")):
            thief = self.serve(challenge)
            registry = self.serve(moved(f"http://{thief.host}/v2/a/b"))
            self.log_in(registry, thief)
            with self.subTest(challenge):
                error = self.fails(registry, f"sends on to {thief.host}, which asks for a password")
                self.assertEqual(401, error.status)
                self.assertEqual([""], [asked.authorization for asked in thief.asked])

    def test_redirect_after_log_in(self) -> None:
        """What proves who asks is not shown where the registry sends on to, such as a storage."""
        storage = self.serve(GOOD)
        registry = self.serve(
            lambda asked: moved(f"http://{storage.host}/blob") if asked.authorization else WHO
        )
        self.log_in(registry)
        self.assertEqual(DIGEST, self.digest(registry))
        self.assertEqual(["", BASIC], [asked.authorization for asked in registry.asked])
        self.assertEqual([""], [asked.authorization for asked in storage.asked])

    def test_token_service_that_sends_on(self) -> None:
        """Neither a password nor an identity token goes where a token service sends on to."""
        for auth in ({}, {"identitytoken": "identity", "auth": "eDo="}):
            thief = self.serve(Answer(body=[b'{"token": "x"}']))
            service = self.serve(moved(f"http://{thief.host}/token"))
            registry = self.serve(refers(f"http://{service.host}/token"))
            self.log_in(registry, **auth)
            with self.subTest(auth):
                self.fails(registry, "answered (401|307)")
                self.assertNotIn(BASIC, [asked.authorization for asked in thief.asked])
                self.assertNotIn("POST", [asked.method for asked in thief.asked])

    def test_less_than_https(self) -> None:
        """A question over https goes nowhere over http."""
        thief = self.serve(Answer(body=[b'{"token": "x"}']))
        for answer, words in (
            (refers(f"http://{thief.host}/token"), "is not https, so it is not asked"),
            (refers("file:///etc/passwd"), "is not https, so it is not asked"),
            (moved(f"http://{thief.host}/v2/a/b"), "sends on to 'http:.*', where nobody is asked"),
            (moved("https://user@127.0.0.1/v2/a/b"), "sends on to .*, where nobody is asked"),
        ):
            registry = self.serve(answer, tls=True)
            self.log_in(registry)
            with self.subTest(answer):
                self.fails(registry, words)
        self.assertEqual([], thief.asked)

    def test_bodies(self) -> None:
        """No body is read to its end only because it has one: manifest, refusal or token."""
        endless = itertools.repeat(PIECE)
        zipped = {"Content-Encoding": "gzip"}
        for answer, words in (
            (Answer(body=endless), "larger than a manifest may be"),
            (Answer(status=401, body=endless), "answered 401"),
            (Answer(status=307, headers={"Location": "/"}, body=endless), "more than 5 times"),
            (Answer(headers=zipped, body=[gzip.compress(bytes(MOST))]), "is compressed"),
        ):
            registry = self.serve(answer)
            with self.subTest(words):
                self.fails(registry, words)
                self.assertLess(max(registry.sent), ENDLESS)

    def test_one_byte_at_a_time(self) -> None:
        """An answer that always goes on a little ends with the deadline: header, body, redirect."""
        head = [b"%c" % byte for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000]
        slow = Answer(body=itertools.repeat(b" "), pause=0.05)
        service = self.serve(slow)
        for name, answer in (
            ("headers", Answer(raw=head, pause=0.05)),
            ("token", refers(f"http://{service.host}/token")),
        ):
            registry = self.serve(answer)
            began = time.monotonic()
            with self.subTest(name):
                self.fails(registry, "did not answer within 0.5 s", timeout=0.5)
                self.assertLess(time.monotonic() - began, 30)

    def test_insecure(self) -> None:
        """No certificate is asked for on this machine, and where the daemon says so."""
        for host, insecure, expected in (
            ("127.0.0.1:5000", (), True),
            ("localhost:5000", (), True),
            ("10.1.2.3:5000", (), False),
            ("10.1.2.3:5000", ("10.0.0.0/8",), True),
            ("registry:5000", ("registry:5000",), True),
            ("registry:5001", ("registry:5000",), False),
            ("10.1.2.3", ("::1/128", "rubbish"), False),
        ):
            with self.subTest(host=host, insecure=insecure):
                self.assertIs(expected, is_insecure(host, insecure))


# As daemons and registries really say it.
SAID = {
    'Get "http://127.0.0.1:5001/v2/": dial tcp: connect: connection refused': Failure.NETWORK,
    'Get "https://r/v2/": dial tcp: lookup r on 10.0.0.1:53: no such host': Failure.NETWORK,
    "unexpected EOF": Failure.NETWORK,
    "received unexpected HTTP status: 503 Service Unavailable": Failure.BUSY,
    "toomanyrequests: You have reached your pull rate limit": Failure.BUSY,
    "unauthorized: authentication required": Failure.DENIED,
    "pull access denied for x, repository does not exist or may require 'docker login'": (
        Failure.DENIED
    ),
    "manifest for x:1 not found: manifest unknown: manifest unknown": Failure.NOT_FOUND,
    "no matching manifest for linux/s390x in the manifest list entries": Failure.NOT_FOUND,
    "manifest verification failed for digest sha256:0": Failure.MISMATCH,
    "write /var/lib/docker/tmp/GetImageBlob1: no space left on device": Failure.DISK,
    "x509: certificate signed by unknown authority": Failure.UNTRUSTED,
    "http: server gave HTTP response to HTTPS client": Failure.UNTRUSTED,
    "something else": Failure.OTHER,
}


class ClassifyTest(unittest.TestCase):
    """`classify` and `exit_status`."""

    def test_text(self) -> None:
        """The daemon's words tell the kind."""
        for text, expected in SAID.items():
            with self.subTest(text):
                self.assertIs(expected, classify(EngineError(text)))

    def test_names_that_do_not_resolve(self) -> None:
        """A name nobody knows is tried once, a failed look-up twice, an outage often."""
        for expected, text in (
            (1, 'Get "https://r/v2/": dial tcp: lookup r on 10.0.0.1:53: no such host'),
            (1, "registry r, asked for a:1: the name r does not resolve: Name not known"),
            (2, 'Get "https://r/v2/": dial tcp: lookup r: Temporary failure in name resolution'),
            (2, "dial tcp: lookup r on 10.0.0.1:53: server misbehaving"),
            (5, "received unexpected HTTP status: 503 Service Unavailable"),
            (1, "unauthorized: authentication required"),
        ):
            with self.subTest(text):
                self.assertEqual(expected, attempts_worth(EngineError(text), most=5))

    def test_exit_status(self) -> None:
        """One kind has its own status, several have 1, none has 0."""
        self.assertEqual(0, exit_status([]))
        self.assertEqual(5, exit_status([Failure.NOT_FOUND, Failure.NOT_FOUND]))
        self.assertEqual(1, exit_status([Failure.NOT_FOUND, Failure.DENIED]))
