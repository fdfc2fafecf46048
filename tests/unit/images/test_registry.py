"""The registry's client: tokens, and which registries need no certificate."""

import base64
import contextlib
import hashlib
import json
import os
import tempfile
import threading
import unittest
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, urlsplit

from orchestrator.engine.registry import RegistryClient
from orchestrator.engine.registry_auth import Credentials
from orchestrator.engine.registry_tls import is_insecure
from orchestrator.errors import EngineError

MANIFEST = b'{"config": {}}'
DIGEST = f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"
TOKEN = "a-token"
USER, PASSWORD = "alice", "hunter2"


class TokenRegistry(BaseHTTPRequestHandler):
    """A registry that sends everybody to its token service, as Docker Hub and ghcr.io do.

    Debian's registry speaks this scheme only with a signed token service beside it.
    """

    asked: list[tuple[str, dict[str, list[str]], str]]

    def do_GET(self) -> None:
        """Answer."""
        url = urlsplit(self.path)
        authorization = self.headers.get("Authorization", "")
        self.asked.append((url.path, parse_qs(url.query), authorization))
        if url.path == "/token":
            basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            allowed = authorization == f"Basic {basic}"
            self.answer(200 if allowed else 401, json.dumps({"token": TOKEN}).encode())
        elif authorization == f"Bearer {TOKEN}":
            self.answer(200, MANIFEST)
        else:
            realm = f"http://{self.headers['Host']}/token"
            self.answer(
                401, b"{}", f'Bearer realm="{realm}",service="tests",scope="repository:a/b:pull"'
            )

    def do_POST(self) -> None:
        """Exchange an identity token."""
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.asked.append((self.path, form, ""))
        allowed = form["refresh_token"] == ["identity"]
        self.answer(200 if allowed else 401, json.dumps({"access_token": TOKEN}).encode())

    def answer(self, status: int, body: bytes, challenge: str = "") -> None:
        """Send an answer."""
        self.send_response(status)
        if challenge:
            self.send_header("WWW-Authenticate", challenge)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def token_registry() -> Iterator[tuple[str, list[tuple[str, dict[str, list[str]], str]]]]:
    """Host and port, and what was asked."""
    asked: list[tuple[str, dict[str, list[str]], str]] = []
    handler = type("Handler", (TokenRegistry,), {"asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class TokenTest(unittest.TestCase):
    """Registries with a token service."""

    def setUp(self) -> None:
        """Start one, with an empty docker configuration."""
        self.host, self.asked = self.enterContext(token_registry())
        self.config = Path(self.enterContext(tempfile.TemporaryDirectory())) / "config.json"
        env = {"DOCKER_CONFIG": str(self.config.parent)}
        self.enterContext(mock.patch.dict(os.environ, env))

    def configure(self, **auth: str) -> None:
        """Write docker's configuration."""
        self.config.write_text(json.dumps({"auths": {self.host: auth}}), encoding="utf-8")

    def digest(self) -> str:
        """The digest of the manifest."""
        return RegistryClient(timeout=10).manifest(self.host, "a/b", "1").digest

    def test_password(self) -> None:
        """Name and password are exchanged for a token of the named scope."""
        self.configure(auth=base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
        self.assertEqual(DIGEST, self.digest())
        [question] = [query for path, query, _ in self.asked if path == "/token"]
        self.assertEqual({"service": ["tests"], "scope": ["repository:a/b:pull"]}, question)

    def test_identity_token(self) -> None:
        """An identity token is exchanged by POST, and is in no address."""
        self.configure(identitytoken="identity", auth=base64.b64encode(b"x:").decode())
        self.assertEqual(DIGEST, self.digest())

    def test_nobody(self) -> None:
        """Without credentials the refusal is reported."""
        with self.assertRaisesRegex(EngineError, "answered 401 Unauthorized") as caught:
            self.digest()
        self.assertEqual(401, caught.exception.status)

    def test_other_bytes(self) -> None:
        """What is asked for by digest must have it."""
        self.configure(auth=base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
        with self.assertRaisesRegex(EngineError, "delivered other bytes"):
            RegistryClient(timeout=10).manifest(self.host, "a/b", f"sha256:{'0' * 64}")

    def test_credentials_are_not_shown(self) -> None:
        """Neither password nor token is in the repr."""
        shown = repr(Credentials(username="alice", password="hunter2", token="identity"))
        self.assertIn("alice", shown)
        self.assertNotIn("hunter2", shown)
        self.assertNotIn("identity", shown)


class InsecureTest(unittest.TestCase):
    """Which registries docker talks to without a trusted certificate."""

    def test_this_machine(self) -> None:
        """Those of this machine, and those the daemon names, by host or network."""
        for host, insecure, expected in (
            ("127.0.0.1:5000", (), True),
            ("localhost", (), True),
            ("localhost:5000", (), True),
            ("[::1]:5000", (), True),
            ("10.1.2.3:5000", (), False),
            ("10.1.2.3:5000", ("10.0.0.0/8",), True),
            ("registry:5000", ("registry:5000",), True),
            ("registry:5001", ("registry:5000",), False),
            ("ghcr.io", ("127.0.0.0/8",), False),
            ("10.1.2.3", ("::1/128", "rubbish"), False),
        ):
            with self.subTest(host=host, insecure=insecure):
                self.assertIs(expected, is_insecure(host, insecure))
