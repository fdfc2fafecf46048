"""Certificates made on the fly, tried in real TLS handshakes."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import threading
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from orchestrator.errors import MissingDriverError
from orchestrator.services.tls import PemFiles, Tls

HOSTS = ("localhost", "docker", "127.0.0.1", "::1")


def handshake(tls: Tls, client: ssl.SSLContext, host: str, *, asks: bool = False) -> str | None:
    """Let a client connect to a server by a host name.

    Args:
        tls: The server's.
        client: What the client connects with.
        host: What it believes the server is called.
        asks: Whether the server wants a certificate of the client.

    Returns:
        What the server knows the client as.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with PemFiles() as files:
        server.load_cert_chain(files.write("server.pem", tls.server.pem))
    if asks:
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_verify_locations(cadata=tls.authority.decode())
    ours, theirs = socket.socketpair()
    seen: list[str | None] = []

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as connection:
                shown: Any = (connection.getpeercert() or {}).get("subject", ())
                seen.append(dict(pair for [pair] in shown).get("commonName"))
                connection.sendall(b"!")
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=host) as connection:
            connection.recv(1)
    finally:
        ours.close()
        thread.join()
    return seen[0] if seen else None


class TlsTest(unittest.TestCase):
    """What one authority signs is trusted by its own clients, and by nobody else."""

    tls: Tls

    @classmethod
    def setUpClass(cls) -> None:
        """One server, which clients without a certificate talk to."""
        cls.tls = Tls.create(HOSTS)

    def test_a_server_is_trusted_under_each_of_its_names(self) -> None:
        """Host names, and addresses of both families; names, too, that only Docker allows."""
        odd = Tls.create((*HOSTS, "my_events", "my--events", "_x_"))
        for tls, hosts in ((self.tls, HOSTS), (odd, (*HOSTS, "my_events", "my--events", "_x_"))):
            for host in hosts:
                with self.subTest(host):
                    self.assertIsNone(handshake(tls, tls.client_context, host))
            with self.assertRaises(ssl.SSLCertVerificationError):
                handshake(tls, tls.client_context, "elsewhere")

    def test_another_authority_is_not_trusted(self) -> None:
        """Each service has an authority of its own."""
        with self.assertRaises(ssl.SSLCertVerificationError):
            handshake(Tls.create(HOSTS), self.tls.client_context, "localhost")

    def test_the_chain_passes_the_strict_checks_of_newer_pythons(self) -> None:
        """Python 3.13 checks certificates strictly by default."""
        for tls in (Tls.create(["localhost"]), Tls.create(["localhost", "my_events"])):
            context = tls.client_context
            context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
            self.assertIsNone(handshake(tls, context, "localhost"))

    def test_a_client_is_known_by_its_name(self) -> None:
        """A server that asks sees the name of the client's certificate."""
        tls = Tls.create(HOSTS, client="ada")
        self.assertEqual("ada", handshake(tls, tls.client_context, "localhost", asks=True))

    def test_a_client_without_a_certificate_is_refused(self) -> None:
        """A server that requires one does not talk to others."""
        with self.assertRaises(OSError):
            handshake(self.tls, self.tls.client_context, "localhost", asks=True)

    def test_keys_do_not_show(self) -> None:
        """What is printed of certificates has no key."""
        self.assertIn(b"BEGIN PRIVATE KEY", self.tls.server.key)
        self.assertNotIn("PRIVATE", repr(self.tls))

    def test_without_trustme_the_error_names_the_extra(self) -> None:
        """It is needed by those only who use TLS."""
        with (
            mock.patch.dict("sys.modules", {"trustme": None}),
            self.assertRaisesRegex(MissingDriverError, r"unittest-orchestrator\[tls\]"),
        ):
            Tls.create(HOSTS)

    def test_files_are_the_users_own_and_go(self) -> None:
        """They may hold keys; a forked child leaves them."""
        with PemFiles() as files:
            first, second = (Path(files.write(name, b"secret")) for name in ("ca.pem", "key.pem"))
            child = os.fork()
            if child == 0:
                files.close()
                os._exit(0)
            self.assertEqual(0, os.waitpid(child, 0)[1])
            self.assertEqual(b"secret", second.read_bytes())
            self.assertEqual(0o600, stat.S_IMODE(second.stat().st_mode))
            self.assertEqual(0o700, stat.S_IMODE(first.parent.stat().st_mode))
        self.assertFalse(first.parent.exists())


if __name__ == "__main__":
    unittest.main()
