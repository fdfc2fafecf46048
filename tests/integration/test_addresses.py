"""Daemons behind proxies, TLS and ssh, reached as the real docker command reaches them."""

import base64
import contextlib
import datetime as dt
import os
import shutil
import socket
import socketserver
import ssl
import subprocess
import tempfile
import threading
import unittest
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar
from unittest import mock
from urllib.parse import urlsplit

import trustme
from cryptography.hazmat.primitives import serialization

from orchestrator.engine import connect, find_endpoint
from orchestrator.engine.api import Label
from orchestrator.engine.docker import Engine
from orchestrator.errors import EngineError, EngineWarning
from orchestrator.sessions import snapshot
from orchestrator.settings import Settings
from tests.faults.proxy import Proxy
from tests.support.sshd import ssh_server

_OURS = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
DAEMON = find_endpoint().url


@unittest.skipUnless(find_endpoint().socket, "the daemon is not on this machine's socket")
class AddressTestCase(unittest.TestCase):
    """A folder, and an environment that says where the daemon is."""

    def setUp(self) -> None:
        """Have an empty docker configuration."""
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.environ = {name: it for name, it in os.environ.items() if name not in _OURS}
        self.environ["DOCKER_CONFIG"] = str(self.folder)

    @contextlib.contextmanager
    def engine(self, **variables: str) -> Iterator[Engine]:
        """The engine that an environment names."""
        with (
            mock.patch.dict(os.environ, {**self.environ, **variables}, clear=True),
            contextlib.closing(connect(Settings())) as engine,
        ):
            yield engine

    def refused(self, variables: Mapping[str, str], *, absent: bool = False) -> str:
        """What one is told whom that environment leads to no daemon."""
        with self.engine(**variables) as engine:
            with self.assertRaises(EngineError) as caught:
                engine.info()
            self.assertIs(absent, getattr(caught.exception, "absent", False))
        return str(caught.exception)

    def reaches(self, **variables: str) -> None:
        """Here and the docker command find a daemon in that environment."""
        with self.engine(**variables) as engine:
            self.assertEqual("Docker", engine.info().product)
        self.assertTrue(self.docker_finds_it(**variables))

    def docker_finds_it(self, **variables: str) -> bool:
        """Whether the docker command does."""
        ran = subprocess.run(
            ["docker", "version"],
            env={**self.environ, **variables},
            capture_output=True,
            timeout=300,
            check=False,
        )
        return ran.returncode == 0


@contextlib.contextmanager
def tunnel_to(port: int) -> Iterator[str]:
    """The URL of a web proxy that leads whoever asks for a tunnel to a port of this machine."""

    class Tunnel(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(b"HTTP/1.0 200 Connection established\r\n\r\n")
            with (
                contextlib.suppress(ConnectionRefusedError),
                socket.create_connection(("127.0.0.1", port)) as there,
            ):
                back = threading.Thread(target=pump, args=(there, self.connection))
                back.start()
                pump(self.connection, there)
                back.join()

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        serving.join()


class ProxyAndTlsTest(AddressTestCase):
    """Web proxies of the environment; certificates: what is checked, and what one is told."""

    nowhere: ClassVar = dict.fromkeys(
        ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"), "http://127.0.0.1:1"
    )

    def test_none_is_on_the_way_to_a_daemon_that_is_here(self) -> None:
        """To a socket or a port of the loopback; .netrc and config.json count as little."""
        (self.folder / "config.json").write_text(
            '{"proxies": {"default": {"httpProxy": "http://127.0.0.1:1"}}}'
        )
        (self.folder / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
        seen: list[bytes] = []
        proxy = self.enterContext(Proxy(DAEMON, tcp=True, before=seen.append))
        for url in (DAEMON, proxy.url, proxy.url.replace("127.0.0.1", "localhost")):
            with self.subTest(url):
                self.reaches(DOCKER_HOST=url, HOME=str(self.folder), **self.nowhere)
        self.assertNotIn(b"authorization", b"".join(seen).lower())

    def test_one_is_used_for_a_daemon_elsewhere_and_named_where_that_fails(self) -> None:
        """With what has the daemon asked directly, and without the proxy's password."""
        proxy = self.enterContext(Proxy(DAEMON, tcp=True))
        elsewhere = {"DOCKER_HOST": "tcp://daemon.invalid:2375"}
        self.reaches(**elsewhere, http_proxy=proxy.url.replace("tcp:", "http:"))
        told = self.refused(
            {**elsewhere, "HTTP_PROXY": "http://me:secret@127.0.0.1:1"}, absent=True
        )
        self.assertIn("by way of the proxy http://***@127.0.0.1:1, which HTTP_PROXY names", told)
        self.assertIn("NO_PROXY=daemon.invalid has it asked directly", told)
        direct = {**elsewhere, **self.nowhere, "NO_PROXY": "daemon.invalid"}
        told = self.refused(direct, absent=True)
        self.assertNotIn("proxy", told)

    def test_a_daemon_behind_one_is_asked_by_way_of_it_alone(self) -> None:
        """Also once the connection was cut: its name may be known to the proxy alone."""
        trustme.CA().cert_pem.write_to_path(self.folder / "ca.pem")
        tls = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(self.folder)}
        cutting = self.enterContext(tunnel_to(1))
        where = {"DOCKER_HOST": "tcp://daemon.invalid:2376", "HTTPS_PROXY": cutting, **tls}
        self.assertNotIn("not known", self.refused(where, absent=True))

    def test_removal_goes_the_same_way(self) -> None:
        """What lists and removes without docker-py uses the proxy, also within TLS."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.folder / "ca.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("daemon.invalid").configure_cert(context)
        secured = self.enterContext(Proxy(DAEMON, tcp=True, tls=context))
        seen: list[bytes] = []
        plain = self.enterContext(Proxy(DAEMON, tcp=True, before=seen.append))
        tunnel = self.enterContext(tunnel_to(urlsplit(secured.url).port or 0))
        tls = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(self.folder)}
        host = {"DOCKER_HOST": "tcp://daemon.invalid:2375"}
        by_way = {"HTTP_PROXY": plain.url.replace("tcp://", "http://me:secret@")}
        for given in (
            {**host, **by_way},
            {"DOCKER_HOST": "tcp://[fd00::7]:2375", **by_way},
            {**host, **tls, "HTTPS_PROXY": tunnel},
        ):
            with self.subTest(given), self.engine(**given) as engine:
                self.assertEqual("Docker", engine.info().product)
                self.assertEqual([], [*snapshot(engine, {Label.SESSION: "nobody's"})[0]])
        login = b"proxy-authorization: basic " + base64.b64encode(b"me:secret")
        said = b"".join(seen).replace(b"Proxy-Authorization: Basic", b"proxy-authorization: basic")
        self.assertGreater(said.count(login), 1)
        self.assertNotIn(b"//fd00", said, "an IPv6 address stands in brackets")

    authority: ClassVar = trustme.CA()
    stranger: ClassVar = trustme.CA()

    def serve(
        self, certificate: trustme.LeafCert | None = None, *, clients: bool = False
    ) -> dict[str, str]:
        """A daemon with a certificate, which may want its clients' too: its address, and ca.pem."""
        certificate = certificate or self.authority.issue_cert("127.0.0.1")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        if clients:
            self.authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        proxy = self.enterContext(Proxy(DAEMON, tcp=True, tls=context))
        self.authority.cert_pem.write_to_path(self.folder / "ca.pem")
        return {"DOCKER_HOST": proxy.url, "DOCKER_CERT_PATH": str(self.folder)}

    def give(self, certificate: trustme.LeafCert) -> None:
        """Have a certificate of our own."""
        certificate.cert_chain_pems[0].write_to_path(self.folder / "cert.pem")
        certificate.private_key_pem.write_to_path(self.folder / "key.pem")

    def test_what_is_not_checked_is_warned_of_once(self) -> None:
        """By us, and not by urllib3 too."""
        where = self.serve(self.stranger.issue_cert("elsewhere"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                self.reaches(**where, DOCKER_TLS="1")
        [warning] = caught
        self.assertIs(EngineWarning, warning.category)
        self.assertIn("is not checked, as DOCKER_HOST", str(warning.message))

    def test_what_is_wrong_with_a_certificate_is_told(self) -> None:
        """Nobody is told to start a daemon that runs, nor is a test skipped."""
        past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        for about, certificate, told in (
            ("expired", self.authority.issue_cert("127.0.0.1", not_after=past), "has expired"),
            (
                "unknown",
                self.stranger.issue_cert("127.0.0.1"),
                f"not known to {self.folder}/ca.pem",
            ),
            ("other name", self.authority.issue_cert("elsewhere"), "for another host: .*127.0.0.1"),
        ):
            with self.subTest(about):
                where = {**self.serve(certificate), "DOCKER_TLS_VERIFY": "1"}
                said = self.refused(where)
                self.assertRegex(said, told)
                self.assertNotIn("Start it", said)
                self.assertFalse(self.docker_finds_it(**where))

    def test_a_certificate_that_the_daemon_asks_for_is_told(self) -> None:
        """There is none, or half of one, or one that it does not know."""
        where = {**self.serve(clients=True), "DOCKER_TLS_VERIFY": "1"}
        said = self.refused(where)
        self.assertIn(
            f"asks for a client certificate (certificate required), and {self.folder} has", said
        )
        self.give(self.stranger.issue_cert("me"))
        said = self.refused(where)
        self.assertIn(
            f"does not take the client certificate {self.folder}/cert.pem: unknown ca", said
        )
        (self.folder / "key.pem").unlink()
        self.assertIn("but beside it no key.pem", self.refused(where))

    def test_a_key_with_a_password_cannot_be_used(self) -> None:
        """Nobody is asked for it, by what lists without docker-py either."""
        where = {**self.serve(clients=True), "DOCKER_TLS_VERIFY": "1"}
        mine = self.authority.issue_cert("me")
        self.give(mine)
        key = serialization.load_pem_private_key(mine.private_key_pem.bytes(), password=None)
        form = serialization.PrivateFormat.PKCS8
        locked = serialization.BestAvailableEncryption(b"secret")
        pem = key.private_bytes(serialization.Encoding.PEM, form, locked)
        (self.folder / "key.pem").write_bytes(pem)
        with (
            self.engine(**where) as engine,
            self.assertRaisesRegex(EngineError, "cannot be used; they may be none"),
        ):
            snapshot(engine, {Label.SESSION: "nobody's"})


class SshTest(AddressTestCase):
    """``ssh://`` by the ssh program, and a server that is real."""

    def setUp(self) -> None:
        """Serve, and read a configuration that leads there."""
        super().setUp()
        if not shutil.which("docker"):
            self.skipTest("the far end of ssh takes the docker command")
        self.environ["PATH"] = self.enterContext(ssh_server(self.folder, daemon=DAEMON))

    def test_a_machine_of_the_configuration_is_reached(self) -> None:
        """Port, user, key, jump host, for many threads; ports are where its HostName is."""
        with self.engine(DOCKER_HOST="ssh://builder", ALL_PROXY="http://127.0.0.1:1") as engine:
            self.assertEqual("127.0.0.1", engine.host)
            with ThreadPoolExecutor(8) as pool:
                self.assertEqual(8, len(list(pool.map(lambda _: engine.info(), range(8)))))
        self.assertTrue(self.docker_finds_it(DOCKER_HOST="ssh://builder"))

    def test_what_ssh_says_is_told(self) -> None:
        """With the command to try; only where nobody answers a test may be skipped."""
        for host, absent, said in (
            ("impostor", False, "Host key verification failed"),
            ("stranger", False, "Permission denied (publickey)"),
            ("closed", True, "Connection refused"),
            ("builder/run/none.sock", True, "/run/none.sock"),
        ):
            with self.subTest(host):
                told = self.refused({"DOCKER_HOST": f"ssh://{host}"}, absent=absent)
                self.assertIn(said, told)
                self.assertIn(f"`ssh -o ConnectTimeout=30 -T -- {host.partition('/')[0]} ", told)
