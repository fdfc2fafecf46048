"""Postgres: every way to connect ends in the test's own state."""

from __future__ import annotations

import subprocess
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

    def test_every_pooled_connection_sees_the_schema(self) -> None:
        """Connections of the pool that are open at once all work in the test's schema."""
        connections = [self.db.engine.connect() for _ in range(5)]
        schemas = {connection.scalar(text(_WHERE)) for connection in connections}
        for connection in connections:
            connection.close()
        self.assertEqual({self.db.schema}, schemas)

    def test_a_connection_that_resets_its_settings_still_sees_the_schema(self) -> None:
        """`RESET ALL` and `DISCARD ALL`, as poolers send them, do not lose the search path."""
        with self.db.connect(autocommit=True) as connection:
            connection.execute("set search_path to public")
            connection.execute("discard all")
            self.assertEqual((self.db.schema,), connection.execute(_WHERE).fetchone())

    def test_every_thread_sees_the_schema(self) -> None:
        """Threads that share the engine work in the test's schema."""
        engine, schemas = self.db.engine, []

        def look(engine: sqlalchemy.Engine) -> None:
            with engine.connect() as connection:
                schemas.append(connection.scalar(text(_WHERE)))

        threads = [threading.Thread(target=look, args=[engine]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([self.db.schema] * 8, schemas)

    def test_another_process_sees_the_schema(self) -> None:
        """The dsn is all that another program needs."""
        code = (
            "import psycopg, sys\nwith psycopg.connect(sys.argv[1]) as connection:"
            f" print(connection.execute({_WHERE!r}).fetchone()[0])"
        )
        output = subprocess.check_output([sys.executable, "-c", code, self.db.dsn], text=True)
        self.assertEqual(self.db.schema, output.strip())

    def test_psql_in_a_container_sees_the_schema(self) -> None:
        """The internal url leads another container of the class to the same place."""
        result = self.db.exec(["psql", "--no-align", "-tc", _WHERE, self.db.internal_url])
        self.assertEqual((0, self.db.schema), (result.exit_code, result.output.strip()))

    def test_the_sqlalchemy_url_leads_to_the_schema(self) -> None:
        """An application that makes its own engine from the URL is isolated too."""
        import sqlalchemy

        engine = sqlalchemy.create_engine(self.db.sqlalchemy_url)
        self.addCleanup(engine.dispose)
        with engine.connect() as connection:
            self.assertEqual(self.db.schema, connection.scalar(text(_WHERE)))

    def test_connect_passes_its_arguments_on(self) -> None:
        """The driver's own arguments work."""
        with self.db.connect(autocommit=True) as connection:
            self.assertTrue(connection.autocommit)

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

    def test_server_version_is_that_of_the_server(self) -> None:
        """The version is told as numbers and dots."""
        self.assertRegex(self.db.server_version, r"^\d+(\.\d+)+$")

    def test_info_tells_version_database_and_schema(self) -> None:
        """What one prints when a test fails."""
        info = self.db.info()
        self.assertRegex(str(info["server"]), r"^PostgreSQL \d+")
        self.assertEqual(self.db.database, info["database"])
        self.assertEqual(self.db.schema, info["schema"])
