"""A fail-over: the primary Redis dies, its replica takes over, and the sessions are still there."""

from __future__ import annotations

import time
import unittest
from typing import TYPE_CHECKING, Any

import redis

from orchestrator import Redis, ServicesMixin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Sessions:
    """The code under test: it writes to whichever server is the primary."""

    def __init__(self, servers: Sequence[redis.Redis]) -> None:
        self._servers = servers

    def save(self, name: str, value: str) -> None:
        """Keep a session."""
        self._primary().set(name, value)

    def load(self, name: str) -> Any:
        """A session that was kept."""
        return self._primary().get(name)

    def _primary(self) -> redis.Redis:
        for server in self._servers:
            try:
                if server.info("replication")["role"] == "master":
                    return server
            except redis.ConnectionError:
                continue
        raise ConnectionError("no primary")


class FailoverTest(ServicesMixin, unittest.TestCase):
    """Two servers for each test, as each test breaks one."""

    primary = Redis(scope="test")
    replica = Redis(scope="test")

    def setUp(self) -> None:
        """Have the replica follow the primary, which it finds by its name."""
        self.replica.client.config_set("masterauth", self.primary.password or "")
        self.replica.client.replicaof(self.primary.alias, "6379")
        self.sessions = Sessions([self.primary.client, self.replica.client])
        self.await_that(
            lambda: self.replica.client.info("replication")["master_link_status"] == "up"
        )

    def test_sessions_survive_the_primary(self) -> None:
        """What was written before the crash is read after the fail-over."""
        self.sessions.save("ann", "signed in")
        self.assertEqual(1, self.primary.client.wait(1, 5000))
        self.primary.kill()
        with self.assertRaises(ConnectionError):
            self.sessions.load("ann")
        self.replica.client.replicaof("NO", "ONE")
        self.assertEqual(b"signed in", self.sessions.load("ann"))

    def test_a_replica_catches_up_after_a_partition(self) -> None:
        """Cut off, it misses what is written; back again, it has it."""
        with self.replica.partitioned():
            self.sessions.save("ann", "signed in")
        self.await_that(lambda: self.replica.client.get("ann") == b"signed in")

    def await_that(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + 60
        while not condition():
            self.assertLess(time.monotonic(), deadline, "it never became true")
            time.sleep(0.05)
