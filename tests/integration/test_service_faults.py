"""Faults: pause, partition, kill and restart a real server."""

from __future__ import annotations

import unittest

import redis

from orchestrator import Container, Redis, ServicesMixin
from orchestrator.errors import EngineError


class FaultsTest(ServicesMixin, unittest.TestCase):
    """A fault lasts as long as its block, and ports stay the same."""

    cache = Redis(startup_timeout=10)
    other = Container(image="redis", command=["sleep", "600"])

    def client(self) -> redis.Redis:
        """A client that gives up soon."""
        client = redis.Redis.from_url(self.cache.url, socket_timeout=0.3, retry=None)
        self.addCleanup(client.close)
        return client

    def sibling_hears(self) -> str:
        """What another container of the class is answered."""
        return self.other.exec(["redis-cli", "-u", self.cache.internal_url, "ping"]).output

    def test_a_paused_server_accepts_and_is_silent(self) -> None:
        """A client's read times out during the pause, and works after it, also when it failed."""
        client = self.client()
        with self.assertRaises(redis.TimeoutError), self.cache.paused():
            client.ping()
        self.assertTrue(client.ping())

    def test_a_partitioned_server_is_out_of_reach_for_host_and_siblings(self) -> None:
        """Neither the test nor another container gets through, until the block ends."""
        port = self.cache.port
        with self.cache.partitioned():
            with self.assertRaises(redis.RedisError):
                self.client().ping()
            self.assertNotIn("PONG", self.sibling_hears())
        self.assertTrue(self.client().ping())
        self.assertIn("PONG", self.sibling_hears())
        self.assertEqual(port, self.cache.port)

    def test_a_partition_of_a_partitioned_server_is_refused(self) -> None:
        """At once: nobody waits for a server that is cut off."""
        with (
            self.cache.partitioned(),
            self.assertRaisesRegex(EngineError, "disconnect .*-cache"),
            self.cache.partitioned(),
        ):
            self.fail("it was cut off twice")
        self.assertTrue(self.client().ping())

    def test_a_killed_server_refuses_and_comes_back_as_it_was(self) -> None:
        """restart() returns when it is ready, on the same port, with the same password."""
        url = self.cache.url
        self.cache.kill()
        with self.assertRaises(redis.ConnectionError):
            self.client().ping()
        self.cache.restart()
        self.assertEqual(url, self.cache.url)
        self.assertTrue(self.client().ping())
        stranger = redis.Redis(host=self.cache.host, port=self.cache.port)
        self.addCleanup(stranger.close)
        with self.assertRaises(redis.AuthenticationError):
            stranger.ping()
