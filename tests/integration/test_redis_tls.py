"""Redis with TLS, and certificates made for the occasion."""

from __future__ import annotations

import ssl
import unittest
from pathlib import Path

import redis

from orchestrator import Container, Redis, ServicesMixin


class TlsTest(ServicesMixin, unittest.IsolatedAsyncioTestCase):
    """One server for all of these."""

    cache = Redis(tls=True, isolation="prefix")
    peer = Container(image="redis", command=["sleep", "600"])

    async def test_clients_are_ready_to_use(self) -> None:
        """Both kinds trust the server's certificate."""
        self.assertTrue(self.cache.client.set(self.cache.key("k"), "v"))
        self.assertEqual(b"v", await self.cache.async_client.get(self.cache.key("k")))

    def test_the_url_names_what_to_trust(self) -> None:
        """A program that is given it verifies the server; the file goes after the test."""
        with type(self).cache.isolated("test_one-1") as one:
            path = Path(one.ca_file or "?")
            with redis.Redis.from_url(one.url) as client:
                self.assertTrue(client.set(one.key("k"), "v"))
        self.assertTrue(one.url.startswith("rediss://test_one-1:"))
        self.assertFalse(path.exists())

    def test_a_stranger_to_the_authority_does_not_trust_it(self) -> None:
        """The certificate is signed by nobody whom the machine knows."""
        client = redis.Redis.from_url(f"rediss://{self.cache.host}:{self.cache.port}", retry=None)
        self.addCleanup(client.close)
        with self.assertRaisesRegex(redis.ConnectionError, "CERTIFICATE_VERIFY_FAILED"):
            client.ping()

    def test_there_is_no_port_without_tls(self) -> None:
        """Plain text is not answered."""
        client = redis.Redis.from_url(f"redis://{self.cache.host}:{self.cache.port}", retry=None)
        self.addCleanup(client.close)
        with self.assertRaises(redis.ConnectionError):
            client.ping()

    def test_the_certificate_has_the_alias(self) -> None:
        """Another container verifies it by the service's name."""
        self.peer.exec(["mkdir", "-p", "/tmp/tls"])
        pem = Path(self.cache.ca_file or "?").read_text()
        self.peer.exec(["sh", "-c", f"cat > /tmp/tls/ca.pem <<'END'\n{pem}\nEND"])
        asks = ["redis-cli", "-u", self.cache.internal_url, "--cacert", "/tmp/tls/ca.pem", "ping"]
        self.assertIn("PONG", self.peer.exec(asks).output)

    def test_it_comes_back_after_a_restart(self) -> None:
        """With the same certificate, so that clients go on."""
        before = ssl.get_server_certificate((self.cache.host, self.cache.port))
        self.cache.restart()
        self.assertTrue(self.cache.client.set(self.cache.key("k"), "v"))
        after = ssl.get_server_certificate((self.cache.host, self.cache.port))
        self.assertEqual(before, after)
