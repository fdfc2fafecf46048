"""Postgres: every way to connect ends in the test's own state."""

from __future__ import annotations

import sys
import threading
import unittest
import unittest.mock
from typing import TYPE_CHECKING

from sqlalchemy import text

from orchestrator import Postgres, ServicesMixin
from orchestrator.errors import MissingDriverError

if TYPE_CHECKING:
    from collections.abc import Callable

    import sqlalchemy

_WHERE = "select current_schema()"


class ConnectionsTest(ServicesMixin, unittest.TestCase):
    """One server for all of these; each test has a schema of its own."""

    db = Postgres()

    def test_every_connection_and_thread_sees_the_schema(self) -> None:
        """Connections of the pool that are open at once all work in the test's schema."""
        engine, schemas = self.db.engine, []
        together = threading.Barrier(5)

        def look(engine: sqlalchemy.Engine) -> None:
            with engine.connect() as connection:
                together.wait(60)
                schemas.append(connection.scalar(text(_WHERE)))

        threads = [threading.Thread(target=look, args=[engine]) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([self.db.schema] * 5, schemas)

    def test_a_connection_that_resets_its_settings_still_sees_the_schema(self) -> None:
        """`RESET ALL` and `DISCARD ALL`, as poolers send them, do not lose the search path."""
        with self.db.connect(autocommit=True) as connection:
            connection.execute("set search_path to public")
            connection.execute("discard all")
            self.assertEqual((self.db.schema,), connection.execute(_WHERE).fetchone())

    def test_psql_in_a_container_sees_the_schema(self) -> None:
        """The internal url leads another container of the class to the same place."""
        result = self.db.exec(["psql", "--no-align", "-tc", _WHERE, self.db.internal_url])
        self.assertEqual((0, self.db.schema), (result.exit_code, result.output.strip()))

    def test_connections_are_closed_after_the_test(self) -> None:
        """What a test leaves open is closed with its state."""
        with type(self).db.isolated("leaves-1") as handle:
            connection = handle.connect()
            handle.engine.connect().close()
            self.assertEqual(1, handle.engine.pool.checkedin())  # type: ignore[attr-defined]
        self.assertTrue(connection.closed)
        self.assertEqual(0, handle.engine.pool.checkedin())  # type: ignore[attr-defined]

    def test_a_missing_driver_names_the_extra(self) -> None:
        """What to install is in the message."""
        uses: dict[str, Callable[[Postgres], object]] = {
            "psycopg": lambda db: db.connect(),
            "sqlalchemy": lambda db: db.engine,
        }
        for module, use in uses.items():
            with (
                self.subTest(module=module),
                unittest.mock.patch.dict(sys.modules, {module: None}),
                self.assertRaisesRegex(
                    MissingDriverError, rf"{module}.*'unittest-orchestrator\[postgres\]'"
                ),
            ):
                use(self.db)

    def test_info_tells_version_database_and_schema(self) -> None:
        """What one prints when a test fails."""
        info = self.db.info()
        self.assertRegex(self.db.server_version, r"^\d+(\.\d+)+$")
        self.assertIn(f"PostgreSQL {self.db.server_version}", str(info["server"]))
        self.assertEqual(self.db.database, info["database"])
        self.assertEqual(self.db.schema, info["schema"])
