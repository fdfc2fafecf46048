"""Faults: pause, partition, kill and restart a real server."""

from __future__ import annotations

import unittest

import redis

from orchestrator import Container, Redis, ServicesMixin
from orchestrator.errors import EngineError
from tests.support.classes import LeakCheckedTestCase


class FaultsTest(LeakCheckedTestCase):
    """A fault lasts as long as its block, and ports stay the same."""

    def test_a_paused_server_accepts_and_is_silent(self) -> None:
        """A client's read times out during the pause, and works after it."""

        class Paused(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                client = redis.Redis.from_url(self.cache.url, socket_timeout=0.3, retry=None)
                self.addCleanup(client.close)
                with self.cache.paused(), self.assertRaises(redis.TimeoutError):
                    client.ping()
                self.assertTrue(client.ping())

        self.assert_passes(Paused)

    def test_a_pause_ends_when_its_block_fails(self) -> None:
        """An exception in the block leaves no frozen server behind."""

        class Fails(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                with self.assertRaises(ZeroDivisionError), self.cache.paused():
                    _ = 1 / 0
                self.assertTrue(self.cache.client.ping())

        self.assert_passes(Fails)

    def test_a_partitioned_server_is_out_of_reach_for_host_and_siblings(self) -> None:
        """Neither the test nor another container gets through, until the block ends."""

        class Partitioned(ServicesMixin, unittest.TestCase):
            cache = Redis()
            other = Container(image="redis", command=["sleep", "60"])

            def test_it(self) -> None:
                port = self.cache.port
                asks = ["redis-cli", "-u", self.cache.internal_url, "ping"]
                client = redis.Redis.from_url(self.cache.url, socket_timeout=0.3, retry=None)
                self.addCleanup(client.close)
                with self.cache.partitioned():
                    with self.assertRaises(redis.RedisError):
                        client.ping()
                    self.assertNotIn("PONG", self.other.exec(asks).output)
                self.assertTrue(self.cache.client.ping())
                self.assertIn("PONG", self.other.exec(asks).output)
                self.assertEqual(port, self.cache.port)

        self.assert_passes(Partitioned)

    def test_a_partition_of_a_partitioned_server_is_refused(self) -> None:
        """At once: nobody waits for a server that is cut off."""

        class Twice(ServicesMixin, unittest.TestCase):
            cache = Redis(startup_timeout=5)

            def test_it(self) -> None:
                with (
                    self.cache.partitioned(),
                    self.assertRaisesRegex(EngineError, "disconnect .*-cache"),
                    self.cache.partitioned(),
                ):
                    self.fail("it was cut off twice")
                self.assertTrue(self.cache.client.ping())

        self.assert_passes(Twice)

    def test_a_killed_server_refuses_and_comes_back_on_the_same_port(self) -> None:
        """kill() ends it; restart() returns when it is ready again."""

        class Killed(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                url = self.cache.url
                self.cache.kill()
                client = redis.Redis.from_url(url, socket_timeout=0.3, retry=None)
                self.addCleanup(client.close)
                with self.assertRaises(redis.ConnectionError):
                    client.ping()
                self.cache.restart()
                self.assertEqual(url, self.cache.url)
                self.assertTrue(client.ping())

        self.assert_passes(Killed)

    def test_a_restarted_server_still_asks_for_its_password(self) -> None:
        """What was set up after the first start is set up after the next."""

        class Restarted(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                self.cache.restart()
                stranger = redis.Redis(host=self.cache.host, port=self.cache.port)
                self.addCleanup(stranger.close)
                with self.assertRaises(redis.AuthenticationError):
                    stranger.ping()

        self.assert_passes(Restarted)
