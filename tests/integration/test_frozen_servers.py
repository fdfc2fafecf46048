"""A server that a test froze, and left frozen: nobody waits for it for ever."""

from __future__ import annotations

import unittest
import unittest.mock
from typing import Any

from orchestrator import Postgres, Redis, Service, ServicesMixin
from tests.support.classes import LeakCheckedTestCase, problems, run_class

PATIENCE = (
    "services.postgres.connections.PATIENCE",
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
        for seconds in PATIENCE:
            self.enterContext(unittest.mock.patch(f"orchestrator.{seconds}", 1))

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
                self.assertEqual([("",)], admin.run("select pg_sleep(2.5)::text"))

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
                    running = type(self).db.running
                    running.engine.unpause_container(running.container)
                return super().run(result)

        text = self.assert_told(Frozen, 2, "db cannot be worked with", "Was it frozen")
        self.assertNotIn("must not be reached", text)

    def test_postgres_with_a_transaction_for_each_test(self) -> None:
        """The session that tests share is bounded like the administrator's."""

        class Frozen(ServicesMixin, unittest.TestCase):
            db = Postgres(isolation="transaction")

            def test_it(self) -> None:
                with self.db.engine.begin() as connection:
                    connection.exec_driver_sql("create table kept (n int)")
                freeze(self.db)

        self.assert_told(Frozen, 1, "db cannot be worked with", "Was it frozen")

    def test_redis_in_a_test_that_fails(self) -> None:
        """The test's own failure is told, although nobody answers about the server."""

        class Frozen(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                running = self.cache.running
                running.engine.kill_container(running.container, signal="SIGSTOP")
                self.fail("the test's own failure")

        text = self.assert_told(Frozen, 1, "cache could not", "Was it frozen (SIGSTOP", "Timeout")
        self.assertIn("the test's own failure", text)
        self.assertIn("cache: no answer within", text)
