"""Certificates made on the fly, tried in real TLS handshakes."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
import unittest
from pathlib import Path
from unittest import mock

from orchestrator.errors import MissingDriverError
from orchestrator.services.certificates import Authority, Certificate, PemFiles, create_authority


def server_context(
    authority: Authority, certificate: Certificate, *, asks_client: bool = False
) -> ssl.SSLContext:
    """What a server with this certificate listens with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with PemFiles() as files:
        context.load_cert_chain(files.write("server.pem", certificate.pem))
    if asks_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=authority.certificate.decode())
    return context


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str | None:
    """Let a client connect to a server by a host name: what the server knows the client as."""
    ours, theirs = socket.socketpair()
    seen: list[str | None] = []

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as connection:
                subject = (connection.getpeercert() or {}).get("subject", ())
                seen.append(next((pair[0][1] for pair in subject), None))
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


class CertificatesTest(unittest.TestCase):
    """What an authority signs is trusted by its own clients, and by nobody else."""

    authority: Authority

    @classmethod
    def setUpClass(cls) -> None:
        """One authority for all tests."""
        cls.authority = create_authority()

    def test_a_server_is_trusted_under_each_of_its_names(self) -> None:
        """Host names, names with an underscore, and addresses of both families."""
        hosts = ("localhost", "my_events", "127.0.0.1", "::1")
        server = server_context(self.authority, self.authority.server(*hosts))
        for host in hosts:
            with self.subTest(host):
                self.assertIsNone(handshake(server, self.authority.client_context(), host))

    def test_a_server_is_not_trusted_under_another_name(self) -> None:
        """The client checks the host name."""
        server = server_context(self.authority, self.authority.server("localhost"))
        with self.assertRaises(ssl.SSLCertVerificationError):
            handshake(server, self.authority.client_context(), "elsewhere")

    def test_another_authority_is_not_trusted(self) -> None:
        """Each service has an authority of its own."""
        other = create_authority()
        server = server_context(other, other.server("localhost"))
        with self.assertRaises(ssl.SSLCertVerificationError):
            handshake(server, self.authority.client_context(), "localhost")

    def test_the_chain_passes_the_strict_checks_of_newer_pythons(self) -> None:
        """Python 3.13 checks certificates strictly by default."""
        context = self.authority.client_context()
        context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
        server = server_context(self.authority, self.authority.server("localhost"))
        self.assertIsNone(handshake(server, context, "localhost"))

    def test_a_client_is_known_by_its_name(self) -> None:
        """A server that asks sees the name of the client's certificate."""
        server = server_context(
            self.authority, self.authority.server("localhost"), asks_client=True
        )
        context = self.authority.client_context(self.authority.client("ada"))
        self.assertEqual("ada", handshake(server, context, "localhost"))

    def test_a_client_without_a_certificate_is_refused(self) -> None:
        """A server that requires one does not talk to others."""
        server = server_context(
            self.authority, self.authority.server("localhost"), asks_client=True
        )
        with self.assertRaises(OSError):
            handshake(server, self.authority.client_context(), "localhost")

    def test_keys_do_not_show(self) -> None:
        """Neither an authority nor a certificate prints its key."""
        certificate = self.authority.server("localhost")
        self.assertIn(b"PRIVATE KEY", certificate.key)
        self.assertNotIn("PRIVATE", repr(certificate))
        self.assertNotIn("key", repr(self.authority))

    def test_without_cryptography_the_error_names_the_extra(self) -> None:
        """It is needed by those only who use TLS."""
        hidden = {"cryptography": None, "cryptography.x509": None}
        with (
            mock.patch.dict("sys.modules", hidden),
            self.assertRaisesRegex(MissingDriverError, r"unittest-orchestrator\[tls\]"),
        ):
            create_authority()


class PemFilesTest(unittest.TestCase):
    """Files for clients that read nothing else."""

    def test_only_this_user_can_read_them(self) -> None:
        """They may hold keys."""
        with PemFiles() as files:
            path = Path(files.write("key.pem", b"secret"))
            self.assertEqual(b"secret", path.read_bytes())
            self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode))
            self.assertEqual(0o700, stat.S_IMODE(path.parent.stat().st_mode))

    def test_they_share_a_folder_that_goes_with_them(self) -> None:
        """Nothing is left on the disk."""
        with PemFiles() as files:
            first, second = (Path(files.write(name, b"")) for name in ("ca.pem", "key.pem"))
            self.assertEqual(first.parent, second.parent)
        self.assertFalse(first.parent.exists())

    def test_no_folder_is_made_before_a_file_is(self) -> None:
        """Most clients need none."""
        with (
            mock.patch("tempfile.TemporaryDirectory", side_effect=AssertionError),
            PemFiles(),
        ):
            pass


if __name__ == "__main__":
    unittest.main()
