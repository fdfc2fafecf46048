"""A server that a test froze, and left frozen: clean-up does not wait for it for ever."""

from __future__ import annotations

import unittest
import unittest.mock
from typing import Any

from orchestrator import Postgres, Redis, Service, ServicesMixin
from tests.support.classes import LeakCheckedTestCase, problems, run_class


def freeze(service: Service) -> None:
    """Stop every process of a server, as docker does."""
    service.running.engine.pause_container(service.running.container)


def class_that_freezes(declared: Service) -> type[unittest.TestCase]:
    """The first of two tests leaves the server frozen."""

    class Frozen(ServicesMixin, unittest.TestCase):
        server = declared

        def test_1_freezes(self) -> None:
            service: Any = self.server
            if isinstance(service, Postgres):
                with service.engine.begin() as connection:
                    connection.exec_driver_sql("create table kept (n int)")
            freeze(service)

        def test_2_comes_after(self) -> None:
            self.fail("must not be reached")

    return Frozen


class FrozenTest(LeakCheckedTestCase):
    """Each test that meets the frozen server is told so once."""

    def assert_told(self, declared: Service, *expected: str) -> None:
        """Expect one error for each test; without bounds this would not come back."""
        result = run_class(class_that_freezes(declared))
        text = problems(result)
        self.assertEqual(2, len(result.errors), text)
        self.assertEqual([], result.failures, text)
        for part in expected:
            for _, error in result.errors:
                self.assertIn(part, error)
                self.assertNotIn("contextlib", error)  # how we noticed would bury it

    def test_postgres_with_a_schema_for_each_test(self) -> None:
        """The default isolation."""
        self.assert_told(Postgres(), "server cannot be worked with", "Was it frozen")

    def test_postgres_with_a_transaction_for_each_test(self) -> None:
        """The session that tests share is bounded like the administrator's."""
        self.assert_told(
            Postgres(isolation="transaction"), "server cannot be worked with", "Was it frozen"
        )

    def test_redis(self) -> None:
        """Its client has a timeout."""
        self.assert_told(Redis(), "server could not", "Was it frozen", "Timeout")

    def test_a_server_that_was_thawed_goes_on(self) -> None:
        """A test that found it frozen does not condemn those after it."""

        class Thawed(ServicesMixin, unittest.TestCase):
            db = Postgres()

            def test_1_freezes(self) -> None:
                freeze(self.db)

            def test_2_goes_on(self) -> None:
                self.db.connect().execute("select 1")

            def run(self, result: Any = None) -> Any:
                if "test_2" in self.id():
                    running = type(self).db.running
                    running.engine.unpause_container(running.container)
                return super().run(result)

        result = run_class(Thawed)
        self.assertEqual(1, len(result.errors), problems(result))
        self.assertIn("test_1_freezes", str(result.errors[0][0]))

    def test_a_slow_statement_is_no_frozen_server(self) -> None:
        """While the server answers others, what takes long may take long."""

        class Slow(ServicesMixin, unittest.TestCase):
            db = Postgres()

            def test_it(self) -> None:
                admin = self.db._class._admin
                self.assertEqual([("",)], admin.run("select pg_sleep(1)::text"))

        patience = "orchestrator.services.postgres.connections.PATIENCE"
        with unittest.mock.patch(patience, 0.2):
            self.assert_passes(Slow)
