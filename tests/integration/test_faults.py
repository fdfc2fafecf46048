"""Faults of a real server, in a block, and one that was left frozen."""

import time
import unittest
import unittest.mock
from typing import Any

import redis

from orchestrator import Container, Postgres, Redis, Service, ServicesMixin
from orchestrator.engine.api import Label
from orchestrator.errors import DeclarationError, EngineError, ServiceError
from tests.support.classes import LeakCheckedTestCase, left_of_this_process, problems, run_class

LATENCY = 0.15


class FaultsTest(ServicesMixin, unittest.TestCase):
    """A fault lasts as long as its block, and ports stay the same."""

    cache = Redis(startup_timeout=10)
    other = Container(image="redis", command=["sleep", "600"])

    def client(self, timeout: float = 0.3) -> redis.Redis:
        """A client that gives up soon."""
        client = redis.Redis.from_url(self.cache.url, socket_timeout=timeout, retry=None)
        self.addCleanup(client.close)
        return client

    def sibling_hears(self) -> str:
        """What another container of the class is answered."""
        return self.other.exec(["redis-cli", "-u", self.cache.internal_url, "ping"]).output

    def fastest(self) -> float:
        """Seconds of the fastest of a few pings: what the machine adds by being busy goes away."""
        seconds = []
        for _ in range(3):
            began = time.monotonic()
            self.cache.client.ping()
            seconds.append(time.monotonic() - began)
        return min(seconds)

    def test_a_paused_server_accepts_and_is_silent(self) -> None:
        """A client's read times out during the pause, and works after it, also when it failed."""
        client = self.client()
        with self.assertRaises(redis.TimeoutError), self.cache.paused():
            client.ping()
        self.assertTrue(client.ping())

    def test_a_partitioned_server_is_out_of_reach_for_host_and_siblings(self) -> None:
        """Until the block ends; a partition of it is refused meanwhile, at once."""
        port = self.cache.port
        with self.cache.partitioned():
            with self.assertRaises(redis.RedisError):
                self.client().ping()
            self.assertNotIn("PONG", self.sibling_hears())
            with (
                self.assertRaisesRegex(EngineError, "disconnect .*cache"),
                self.cache.partitioned(),
            ):
                self.fail("it was cut off twice")
        self.assertTrue(self.client().ping())
        self.assertIn("PONG", self.sibling_hears())
        self.assertEqual(port, self.cache.port)

    def test_a_killed_server_refuses_and_comes_back_as_it_was(self) -> None:
        """On the same port, with the same password; a fault of what was killed ends well."""
        url = self.cache.url
        with self.cache.slowed(latency=LATENCY), self.cache.partitioned():
            self.cache.kill()
        with self.assertRaises(redis.ConnectionError):
            self.client().ping()
        self.cache.restart()
        self.assertEqual(url, self.cache.url)
        self.assertTrue(self.client().ping())
        with (
            redis.Redis(host=self.cache.host, port=self.cache.port) as stranger,
            self.assertRaises(redis.AuthenticationError),
        ):
            stranger.ping()

    def test_answers_are_late_on_connections_that_are_open_already(self) -> None:
        """A pooled connection is slow in the block, for siblings too, and quick after it."""
        self.assertTrue(self.cache.client.ping())
        with self.cache.slowed(latency=LATENCY):
            self.assertGreaterEqual(self.fastest(), LATENCY)
            began = time.monotonic()
            self.assertIn("PONG", self.sibling_hears())
            self.assertGreaterEqual(time.monotonic() - began, 2 * LATENCY)  # it logs in first
            with (
                self.assertRaisesRegex(ServiceError, "cache could not be slowed: it is s"),
                self.cache.slowed(loss=0.1),
            ):
                self.fail("it was slowed twice")
        self.assertLess(self.fastest(), LATENCY)

    def test_data_arrives_whole(self) -> None:
        """Late, out of order and with losses."""
        value = bytes(range(256)) * 4096
        self.cache.client.set("large", value)
        with self.cache.slowed(latency=0.02, jitter=0.02, loss=0.02):
            self.assertEqual(value, self.client(timeout=30).get("large"))

    def test_a_link_that_loses_everything_times_out(self) -> None:
        """A driver's timeout is met as in production; the failed block leaves no helper behind."""
        with self.assertRaises(redis.TimeoutError), self.cache.slowed(loss=1):
            self.client().ping()
        self.assertTrue(self.client(timeout=5).ping())
        found = [it.labels for it in left_of_this_process() if it.kind == "container"]
        mine = [it[Label.SERVICE] for it in found if it[Label.CLASS].endswith("FaultsTest")]
        self.assertEqual(["cache", "other"], sorted(mine))

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


PATIENCE = (
    "services.postgres.admin._PATIENCE",
    "services.redis.isolation._ADMIN_TIMEOUT",
    "environment.diagnosis._INFO_TIMEOUT",
)


def freeze(service: Service) -> None:
    """Stop every process of a server, as docker does."""
    service.running.engine.pause_container(service.running.container)


class FrozenTest(LeakCheckedTestCase):
    """Each test that meets the frozen server is told so once, in bounded time."""

    def setUp(self) -> None:
        """Be less patient than for users."""
        super().setUp()
        for seconds in PATIENCE:  # 3: a busy machine needs one for what it does at once
            self.enterContext(unittest.mock.patch(f"orchestrator.{seconds}", 3))

    def assert_told(self, cls: type[unittest.TestCase], errors: int, *expected: str) -> str:
        """Expect so many errors, each with these parts."""
        result = run_class(cls)
        text = problems(result)
        self.assertEqual(errors, len(result.errors), text)
        for part in expected:
            for _, error in result.errors:
                self.assertIn(part, error)
                self.assertNotIn("contextlib", error)  # how we noticed would bury it
        return text

    def test_postgres(self) -> None:
        """A slow statement is waited for, a frozen server is not; once thawed, tests go on."""

        class Frozen(ServicesMixin, unittest.TestCase):
            db = Postgres()

            def test_0_is_slow(self) -> None:
                admin = self.db._class._admin
                self.assertEqual([("",)], admin.run("select pg_sleep(6.5)::text"))

            def test_1_freezes(self) -> None:
                with self.db.engine.begin() as connection:
                    connection.exec_driver_sql("create table kept (n int)")
                freeze(self.db)

            def test_2_comes_after(self) -> None:
                raise AssertionError("must not be reached")

            def test_3_goes_on(self) -> None:
                self.db.connect().execute("select 1")

            def run(self, result: Any = None) -> Any:
                if "test_3" in self.id():
                    db = type(self).db
                    db.running.engine.unpause_container(db.running.container)
                    db.exec(["psql", "-c", "select 1", db.internal_url])  # it has caught up
                return super().run(result)

        text = self.assert_told(Frozen, 2, "db cannot be worked with", "Was it frozen")
        self.assertNotIn("must not be reached", text)

    def test_redis_in_a_test_that_fails(self) -> None:
        """The test's own failure is told, although nobody answers about the server."""

        class Frozen(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                running = self.cache.running
                running.engine.kill_container(running.container, signal="SIGSTOP")
                self.fail("the test's own failure")

        text = self.assert_told(Frozen, 1, "cache could not", "Was it frozen (SIGSTOP")
        self.assertIn("the test's own failure", text)
        self.assertIn("cache: no answer", text)
