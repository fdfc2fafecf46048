"""Postgres: every driver and every way to connect ends in the test's own state."""

from __future__ import annotations

import asyncio
import configparser
import sys
import threading
import unittest
import unittest.mock
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg  # type: ignore[import-untyped]
import django
import psycopg
import psycopg2
import sqlalchemy
import tortoise
from django import conf
from django.db.utils import ConnectionHandler
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from orchestrator import Postgres, ServicesMixin
from orchestrator.errors import MissingDriverError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable


WHERE = "select current_user || ' ' || current_database() || ' ' || current_schema()"

PATH = '"My Schema", "$user", public'


def _where(connection: Any) -> object:
    """What a connection of the database API answers; it is closed."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(WHERE)
            return cursor.fetchone()
    finally:
        connection.close()


def by_psycopg(url: str) -> object:
    """Its connect()."""
    with psycopg.connect(url) as connection:
        return connection.execute(WHERE).fetchone()


def by_psycopg2(url: str) -> object:
    """Its connect()."""
    return _where(psycopg2.connect(url))


def by_asyncpg(url: str) -> object:
    """A pool, which resets its connections."""

    async def ask() -> list[object]:
        async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
            await pool.fetchval("select set_config('search_path', 'pg_catalog', false)")
            return [await pool.fetchval(WHERE)]

    return asyncio.run(ask())


def by_sqlalchemy(driver: str) -> Callable[[str], object]:
    """An engine for a driver."""

    def ask(url: str) -> object:
        engine = sqlalchemy.create_engine(url.replace("postgresql:", f"postgresql+{driver}:"))
        try:
            with engine.connect() as connection:
                return [connection.scalar(sqlalchemy.text(WHERE))]
        finally:
            engine.dispose()

    return ask


def by_sqlalchemy_and_asyncpg(url: str) -> object:
    """An engine for asyncio."""

    async def ask() -> list[object]:
        engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
        async with engine.connect() as connection:
            found = [await connection.scalar(sqlalchemy.text(WHERE))]
        await engine.dispose()
        return found

    return asyncio.run(ask())


def by_django(url: str) -> object:
    """Its DATABASES, with what stands in the URL."""
    if not conf.settings.configured:
        conf.settings.configure()
        django.setup()
    parts = urlsplit(url)
    default: dict[str, Any] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path[1:],
        "USER": parts.username,
        "PASSWORD": parts.password,
        "HOST": parts.hostname,
        "PORT": parts.port,
    }
    return _where(ConnectionHandler({"default": default})["default"])


class Nothing(tortoise.Model):
    """Tortoise wants a model."""

    id = tortoise.fields.IntField(primary_key=True)


def by_tortoise(url: str) -> object:
    """Its connection, by asyncpg."""

    async def ask() -> list[object]:
        await tortoise.Tortoise.init(db_url=url, modules={"models": [__name__]})
        found = await tortoise.connections.get("default").execute_query_dict(f"{WHERE} as found")
        await tortoise.Tortoise.close_connections()
        return [found[0]["found"]]

    return asyncio.run(ask())


def by_config_parser(url: str) -> object:
    """Alembic's sqlalchemy.url, with psycopg."""
    parser = configparser.ConfigParser()
    parser.read_string(f"[alembic]\nsqlalchemy.url = {url}")
    return by_psycopg(parser["alembic"]["sqlalchemy.url"])


DRIVERS: dict[str, Callable[[str], object]] = {
    "psycopg": by_psycopg,
    "psycopg2": by_psycopg2,
    "asyncpg": by_asyncpg,
    **{f"SQLAlchemy, {it}": by_sqlalchemy(it) for it in ("psycopg", "psycopg2", "pg8000")},
    "SQLAlchemy, asyncpg": by_sqlalchemy_and_asyncpg,
    "Django": by_django,
    "Tortoise": by_tortoise,
    "ConfigParser": by_config_parser,
}


class DriversTest(ServicesMixin, unittest.TestCase):
    """A server for each isolation; the URL leads each driver to the test's state."""

    schema = Postgres(roles=["app"], databases=["other"], settings={"search_path": PATH})
    database = Postgres(isolation="database", username="owner", roles=["app"])
    transaction = Postgres(isolation="transaction")
    none = Postgres(isolation="none")

    def assert_leads(self, handle: Postgres, *, user: str) -> None:
        """Expect that each driver's session is a role's, in the handle's database and schema."""
        for name, ask in DRIVERS.items():
            with self.subTest(name, handle=handle):
                found = ask(handle.url)
                expected = f"{user} {handle.database} {handle.schema}"
                self.assertEqual([expected], list(found))  # type: ignore[call-overload]

    def test_every_driver_takes_the_url(self) -> None:
        """The user is the declared one, whoever logs in."""
        for handle in (self.schema, self.database, self.transaction, self.none):
            self.assert_leads(handle, user="owner" if handle is self.database else "test")

    def test_every_driver_takes_the_url_of_a_role(self) -> None:
        """Also in another database."""
        self.assert_leads(self.schema.as_role("app"), user="app")
        self.assert_leads(self.schema.in_database("other").as_role("app"), user="app")
        self.assert_leads(self.database.as_role("app"), user="app")

    def test_a_pool_that_is_kept_is_told_whose_it_was(self) -> None:
        """It sees nothing of the next test, nor of the class."""
        for db in (type(self).schema, type(self).database):
            with db.isolated("test_before-1") as handle:
                engine = sqlalchemy.create_engine(handle.sqlalchemy_url)
                self.addCleanup(engine.dispose)
                engine.connect().close()
            with (
                db.isolated("test_after-2"),
                self.assertRaisesRegex(sqlalchemy.exc.OperationalError, "terminat|closed"),
                engine.connect() as connection,
            ):
                connection.execute(sqlalchemy.text(WHERE))
            with self.assertRaisesRegex(sqlalchemy.exc.OperationalError, "test_before_1"):
                engine.connect()

    def test_a_search_path_with_quotes_and_blanks_is_kept(self) -> None:
        """Behind the test's schema stands what the class has set."""
        for handle in (self.schema, self.schema.as_role("app")):
            [path] = handle.connect().execute("show search_path").fetchone() or [""]
            self.assertEqual(f"{handle.schema}, {PATH}", path)


class TlsTest(ServicesMixin, unittest.TestCase):
    """tls=True."""

    db = Postgres(tls=True)

    def test_every_driver_takes_the_url(self) -> None:
        """Each of them speaks TLS when it is offered."""
        for name, ask in DRIVERS.items():
            with self.subTest(name):
                self.assertEqual([f"test test {self.db.schema}"], list(ask(self.db.url)))  # type: ignore[call-overload]

    def test_our_own_clients_check_who_answers(self) -> None:
        """By the class's own authority."""
        asked = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
        with self.db.connect() as connection:
            self.assertEqual((True,), connection.execute(asked).fetchone())
        with self.db.engine.connect() as connection:
            self.assertTrue(connection.scalar(sqlalchemy.text(asked)))
        url = f"{self.db.url}?sslmode=verify-full&sslrootcert={self.db.ca_file}"
        psycopg.connect(url).close()
        inside = self.db.exec(["psql", "-tc", asked, self.db.internal_url])
        self.assertEqual("t", inside.output.strip())

    def test_nobody_gets_in_without(self) -> None:
        """The server refuses what is not encrypted."""
        with self.assertRaisesRegex(psycopg.OperationalError, "no encryption"):
            psycopg.connect(self.db.url, sslmode="disable")
        self.db.restart()
        self.db.connect().close()


_WHERE = "select current_schema()"


class ConnectionsTest(ServicesMixin, unittest.TestCase):
    """One server for all of these; each test has a schema of its own."""

    db = Postgres(databases=["reports"], roles=["app"], extensions=["pg_trgm"])

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

    # Other databases, and roles

    def test_each_database_has_the_tests_schema(self) -> None:
        """By the same name."""
        other = self.db.in_database("reports")
        with other.connect() as connection:
            row = connection.execute("select current_schema(), current_database()").fetchone()
        self.assertEqual((self.db.schema, "reports"), row)

    def test_a_role_finds_what_it_is_granted_in_the_tests_schema(self) -> None:
        """The schema itself is open to the class's roles."""
        with self.db.connect(autocommit=True) as connection:
            connection.execute("create table t as select 3 as id")
            connection.execute("grant select on t to app")
        with self.db.as_role("app").connect() as connection:
            self.assertEqual((3,), connection.execute("select id from t").fetchone())

    # After a restart

    def test_the_next_test_has_clean_state_after_a_restart(self) -> None:
        """The connection that isolates tests comes back by itself."""
        with type(self).db.isolated("one-1") as one:
            with one.connect() as connection:
                connection.execute("create table t(id int)")
            one.restart()
            with one.connect() as connection:
                self.assertEqual((0,), connection.execute("select count(*) from t").fetchone())
        with type(self).db.isolated("two-2") as two, two.connect() as connection:
            self.assertEqual((None,), connection.execute("select to_regclass('t')").fetchone())

    def test_a_killed_server_is_told_as_such(self) -> None:
        """A test that leaves the server dead gets an error that says so."""
        handle = type(self).db
        with self.assertRaises(ServiceError), handle.isolated("one-1") as one:
            one.kill()
        handle.restart()
