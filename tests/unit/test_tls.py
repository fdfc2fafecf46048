"""Certificates made on the fly, tried in real TLS handshakes."""

import contextlib
import os
import ssl
import stat
import unittest
from pathlib import Path
from unittest import mock

from orchestrator.errors import MissingDriverError
from orchestrator.services.tls import PemFiles, Tls

HOSTS = ("localhost", "docker", "127.0.0.1", "::1", "my_events", "my--events", "_x_")


def handshake(tls: Tls, client: ssl.SSLContext, host: str) -> None:
    """Let a client connect to a server by a host name."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with PemFiles() as files:
        server.load_cert_chain(files.write("server.pem", tls.server.pem))
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(ours, theirs, server_hostname=host),
        server.wrap_bio(theirs, ours, server_side=True),
    ]
    for side in sides * 2:
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()


class TlsTest(unittest.TestCase):
    """What one authority signs is trusted by its own clients, and by nobody else."""

    def test_a_server_is_trusted_under_each_of_its_names(self) -> None:
        """Addresses, names that only Docker allows; under no other, by no other authority."""
        tls = Tls.create(HOSTS)
        self.assertNotIn("PRIVATE", repr(tls))
        context = tls.client_context
        context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
        for host in HOSTS:
            with self.subTest(host):
                handshake(tls, context, host)
        for server, host in ((tls, "elsewhere"), (Tls.create(HOSTS), "localhost")):
            with self.assertRaises(ssl.SSLCertVerificationError):
                handshake(server, context, host)

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
            path = Path(files.write("key.pem", b"secret"))
            child = os.fork()
            if child == 0:
                files.close()
                os._exit(0)
            self.assertEqual(0, os.waitpid(child, 0)[1])
            self.assertEqual(b"secret", path.read_bytes())
            self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode))
            self.assertEqual(0o700, stat.S_IMODE(path.parent.stat().st_mode))
        self.assertFalse(path.parent.exists())
