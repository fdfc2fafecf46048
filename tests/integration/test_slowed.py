"""`slowed`: a server behind a bad link, with real packets."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import unittest
from typing import TYPE_CHECKING

import redis

from orchestrator import Container, Redis, ServicesMixin
from orchestrator.engine.api import Label
from orchestrator.errors import DeclarationError, ServiceError
from tests.support.classes import left_of_this_process

if TYPE_CHECKING:
    from collections.abc import Callable

LATENCY = 0.2


def fastest(action: Callable[[], object], *, times: int = 5) -> float:
    """Seconds of the fastest of several runs: what the machine adds by being busy goes away."""
    seconds = []
    for _ in range(times):
        began = time.monotonic()
        action()
        seconds.append(time.monotonic() - began)
    return min(seconds)


class SlowedTest(ServicesMixin, unittest.TestCase):
    """Late, in order, and only while the block runs."""

    cache = Redis()
    other = Container(image="redis", entrypoint=["sleep", "600"])

    def assert_slow(self) -> None:
        """An answer takes at least as long as its way."""
        self.assertGreaterEqual(fastest(self.cache.client.ping), LATENCY)

    def test_answers_are_late_on_connections_that_are_open_already(self) -> None:
        """A pooled connection is slow in the block, for siblings too, and quick after it."""
        port = self.cache.port
        self.assertTrue(self.cache.client.ping())
        with self.cache.slowed(latency=LATENCY):
            self.assert_slow()
            self.assertEqual(port, self.cache.port)
            argv = ["redis-cli", "-u", self.cache.internal_url, "ping"]
            began = time.monotonic()
            self.assertIn("PONG", self.other.exec(argv).output)
            self.assertGreaterEqual(time.monotonic() - began, 2 * LATENCY)  # it logs in first
            with (
                self.assertRaisesRegex(ServiceError, "cache could not be slowed: it is s"),
                self.cache.slowed(loss=0.1),
            ):
                self.fail("it was slowed twice")
            self.assert_slow()
        self.assertLess(fastest(self.cache.client.ping), LATENCY)

    def test_new_connections_are_slow_and_data_arrives_whole(self) -> None:
        """Megabytes come through late, complete and in order."""
        value = bytes(range(256)) * 4096
        self.cache.client.set("large", value)
        with (
            self.cache.slowed(latency=0.02, jitter=0.02, loss=0.02),
            redis.Redis.from_url(self.cache.url, socket_timeout=30) as client,
        ):
            self.assertEqual(value, client.get("large"))

    def test_a_link_that_loses_everything_times_out(self) -> None:
        """A driver's timeout is met as in production; the failed block leaves no helper behind."""
        with (
            redis.Redis.from_url(self.cache.url, socket_timeout=0.3, retry=None) as client,
            self.assertRaises(redis.TimeoutError),
            self.cache.slowed(loss=1),
        ):
            client.ping()
        self.assertLess(fastest(self.cache.client.ping), LATENCY)
        found = [it.labels for it in left_of_this_process() if it.kind == "container"]
        mine = [it[Label.SERVICE] for it in found if it[Label.CLASS].endswith("SlowedTest")]
        self.assertEqual(["cache", "other"], sorted(mine))

    def test_a_server_that_is_killed_can_be_slowed_again(self) -> None:
        """What was slowed may be gone when its block ends; its next start is slowed like any."""
        with self.cache.slowed(latency=LATENCY):
            self.cache.kill()
        with self.assertRaises(OSError):
            socket.create_connection((self.cache.host, self.cache.port), timeout=1)
        self.cache.restart()
        with self.cache.slowed(latency=LATENCY):
            self.assert_slow()

    @unittest.skipUnless(os.geteuid() == 0, "only root may set up such a network namespace")
    def test_it_works_where_the_kernel_is_strict_about_ways_back(self) -> None:
        """Some distributions set rp_filter to 1, which drops what came by another way."""
        found = ["docker", "inspect", "-f", "{{.State.Pid}}", self.cache.container_id]
        pid = subprocess.run(found, capture_output=True, text=True, check=True).stdout
        values = [f"net.ipv4.conf.{name}.rp_filter=1" for name in ("all", "eth0")]
        argv = ["nsenter", "--net", "--target", pid.strip(), "sysctl", "-w", *values]
        subprocess.run(argv, capture_output=True, check=True)
        with self.cache.slowed(latency=LATENCY):
            self.assert_slow()
        self.assertLess(fastest(self.cache.client.ping), LATENCY)

    def test_a_value_that_makes_no_sense_is_named(self) -> None:
        """Milliseconds, percent and nothing at all are told apart from what is meant."""
        for name, value in (("latency", 250), ("jitter", -1), ("loss", 5)):
            with (
                self.assertRaisesRegex(DeclarationError, f"slowed.{name}={value}"),
                self.cache.slowed(**{name: value}),
            ):
                self.fail("it was taken")
        with self.assertRaises(DeclarationError), self.cache.slowed():
            self.fail("it was taken")
