"""Faults: pause, partition, kill and restart a real server. Its ports stay the same."""

from __future__ import annotations

import unittest

import redis

from orchestrator import Container, Redis, ServicesMixin
from orchestrator.errors import EngineError


class FaultsTest(ServicesMixin, unittest.TestCase):
    """A fault lasts as long as its block."""

    cache = Redis(startup_timeout=5)
    other = Container(image="redis", command=["sleep", "60"])

    def setUp(self) -> None:
        """A client that does not wait, and does not try twice."""
        super().setUp()
        self.client = redis.Redis.from_url(self.cache.url, socket_timeout=0.3, retry=None)
        self.addCleanup(self.client.close)

    def test_a_paused_server_accepts_and_is_silent(self) -> None:
        """A client's read times out during the pause, and works after it."""
        with self.cache.paused(), self.assertRaises(redis.TimeoutError):
            self.client.ping()
        self.assertTrue(self.client.ping())

    def test_a_pause_ends_when_its_block_fails(self) -> None:
        """An exception in the block leaves no frozen server behind."""
        with self.assertRaises(ZeroDivisionError), self.cache.paused():
            _ = 1 / 0
        self.assertTrue(self.client.ping())

    def test_a_partitioned_server_is_out_of_reach_for_host_and_siblings(self) -> None:
        """Neither the test nor another container gets through, until the block ends."""
        port = self.cache.port
        asks = ["redis-cli", "-u", self.cache.internal_url, "ping"]
        with self.cache.partitioned():
            with self.assertRaises(redis.RedisError):
                self.client.ping()
            self.assertNotIn("PONG", self.other.exec(asks).output)
        self.assertTrue(self.client.ping())
        self.assertIn("PONG", self.other.exec(asks).output)
        self.assertEqual(port, self.cache.port)

    def test_a_partition_of_a_partitioned_server_is_refused(self) -> None:
        """At once: nobody waits for a server that is cut off."""
        with (
            self.cache.partitioned(),
            self.assertRaisesRegex(EngineError, "disconnect .*-cache"),
            self.cache.partitioned(),
        ):
            self.fail("it was cut off twice")
        self.assertTrue(self.client.ping())

    def test_a_killed_server_refuses_and_comes_back_on_the_same_port(self) -> None:
        """kill() ends it; restart() returns when it is ready again, and asks for its password."""
        url = self.cache.url
        self.cache.kill()
        with self.assertRaises(redis.ConnectionError):
            self.client.ping()
        self.cache.restart()
        self.assertEqual(url, self.cache.url)
        self.assertTrue(self.client.ping())
        stranger = redis.Redis(host=self.cache.host, port=self.cache.port)
        self.addCleanup(stranger.close)
        with self.assertRaises(redis.AuthenticationError):
            stranger.ping()
