"""Postgres: every driver ends in the test's own state; several databases, roles, extensions."""

import asyncio
import configparser
import contextlib
import inspect
import sys
import unittest
import unittest.mock
from collections.abc import Callable
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import psycopg
import psycopg2
import sqlalchemy
import tortoise
from sqlalchemy import Column, Integer, MetaData, Table, text
from sqlalchemy.ext.asyncio import create_async_engine

from orchestrator import Postgres, ServicesMixin
from orchestrator.errors import DeclarationError, MissingDriverError
from orchestrator.services.options import masked

WHERE = "select current_user || ' ' || current_database() || ' ' || current_schema()"

SCHEMA = "select current_schema()"
PATH = '"My Schema", "$user", public'


def by_dbapi(module: Any) -> Callable[[str], object]:
    """A driver's connect()."""

    def ask(url: str) -> object:
        with contextlib.closing(module.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute(WHERE)
            return cursor.fetchone()[0]

    return ask


def by_sqlalchemy(driver: str) -> Callable[[str], object]:
    """An engine for a driver."""

    def ask(url: str) -> object:
        url = url.replace("postgresql:", f"postgresql+{driver}:")
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            return connection.scalar(text(WHERE))

    return ask


async def by_asyncpg(url: str) -> object:
    """A pool, which resets its connections."""
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
        await pool.fetchval("select set_config('search_path', 'pg_catalog', false)")
        return await pool.fetchval(WHERE)


async def by_sqlalchemy_and_asyncpg(url: str) -> object:
    """An engine for asyncio."""
    url = url.replace("postgresql:", "postgresql+asyncpg:")
    async with create_async_engine(url, poolclass=sqlalchemy.NullPool).connect() as connection:
        return await connection.scalar(text(WHERE))


class Nothing(tortoise.Model):
    """Tortoise wants a model."""

    id = tortoise.fields.IntField(primary_key=True)


async def by_tortoise(url: str) -> object:
    """Its connection, by asyncpg."""
    await tortoise.Tortoise.init(db_url=url, modules={"models": [__name__]})
    found = await tortoise.connections.get("default").execute_query_dict(f"{WHERE} as found")
    await tortoise.Tortoise.close_connections()
    return found[0]["found"]


def by_config_parser(url: str) -> object:
    """Alembic's sqlalchemy.url, with psycopg."""
    parser = configparser.ConfigParser()
    parser.read_string(f"[alembic]\nsqlalchemy.url = {url}")
    return by_dbapi(psycopg)(parser["alembic"]["sqlalchemy.url"])


DRIVERS: dict[str, Callable[[str], object]] = {
    **{module.__name__: by_dbapi(module) for module in (psycopg, psycopg2)},
    "asyncpg": by_asyncpg,
    **{f"SQLAlchemy, {it}": by_sqlalchemy(it) for it in ("psycopg", "psycopg2", "pg8000")},
    "SQLAlchemy, asyncpg": by_sqlalchemy_and_asyncpg,
    "Tortoise": by_tortoise,
    "ConfigParser": by_config_parser,
}
BOOKS = MetaData()
Table("books", BOOKS, Column("id", Integer, primary_key=True))


def make_orders(engine: sqlalchemy.Engine) -> None:
    """A table that a role may read."""
    with engine.begin() as connection:
        connection.execute(text("create table orders as select 1 as id"))
        connection.execute(text("grant select on orders to reader"))


async def make_reports(engine: sqlalchemy.ext.asyncio.AsyncEngine) -> None:
    """A migration that is a coroutine function."""
    async with engine.begin() as connection:
        await connection.execute(text("create table reports as select 2 as id"))


class DriversTest(ServicesMixin, unittest.TestCase):
    """A server for each isolation; the URL leads each driver to the test's state."""

    schema = Postgres(
        roles=["app"], databases=["other"], extensions=["pg_trgm"], settings={"search_path": PATH}
    )
    database = Postgres(
        migrate=make_orders,
        databases={"reports": make_reports, "the audit": None, "books": BOOKS},
        username="owner",
        roles=["app", "reader"],
        extensions=["pg_trgm", "uuid-ossp"],
    )
    none = Postgres(isolation="none", database="shop", tls=True)

    @classmethod
    def setUpClass(cls) -> None:
        """Make a table that every test finds."""
        super().setUpClass()
        with cls.schema.connect(autocommit=True) as connection:
            connection.execute("create table public.countries as select 'nl' as code")

    def assert_leads(self, handle: Postgres, *, user: str) -> None:
        """Expect that each driver's session is a role's, in the handle's database and schema."""
        for name, ask in DRIVERS.items():
            with self.subTest(name, handle=handle):
                found = ask(handle.url)
                if inspect.iscoroutine(found):
                    found = asyncio.run(found)
                self.assertEqual(f"{user} {handle.database} {handle.schema}", found)

    def test_every_driver_takes_the_url(self) -> None:
        """The user is the declared one, whoever logs in."""
        for handle in (self.schema, self.database, self.none):
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
                connection.execute(text(WHERE))
            with self.assertRaisesRegex(sqlalchemy.exc.OperationalError, "test_before_1"):
                engine.connect()

    def test_a_search_path_with_quotes_and_blanks_is_kept(self) -> None:
        """Behind the test's schema stands what the class has set."""
        for handle in (self.schema, self.schema.as_role("app")):
            [path] = handle.connect().execute("show search_path").fetchone() or [""]
            self.assertEqual(f"{handle.schema}, {PATH}", path)

    # Tests that share everything

    def test_tests_share_everything(self) -> None:
        """A table of one test is there in the next."""
        with type(self).none.isolated("one-1") as one, one.connect(autocommit=True) as connection:
            connection.execute("create table t as select 1 as id")
        with self.none.connect() as connection:
            self.assertEqual((1,), connection.execute("select id from public.t").fetchone())

    # tls=True, which every driver above speaks when it is offered

    def test_our_own_clients_check_who_answers(self) -> None:
        """By the class's own authority."""
        asked = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
        with self.none.connect() as connection:
            self.assertEqual((True,), connection.execute(asked).fetchone())
        with self.none.engine.connect() as connection:
            self.assertTrue(connection.scalar(text(asked)))
        url = f"{self.none.url}?sslmode=verify-full&sslrootcert={self.none.ca_file}"
        psycopg.connect(url).close()
        inside = self.none.exec(["psql", "-tc", asked, self.none.internal_url])
        self.assertEqual("t", inside.output.strip())

    def test_nobody_gets_in_without(self) -> None:
        """The server refuses what is not encrypted."""
        with self.assertRaisesRegex(psycopg.OperationalError, "no encryption"):
            psycopg.connect(self.none.url, sslmode="disable")
        self.none.restart()
        self.none.connect().close()

    # A schema of the test's own

    def test_the_classs_tables_are_seen_and_hidden(self) -> None:
        """Every test finds them by name; a table of the same name is the test's own."""
        query = "select code from countries"
        for _ in range(2):
            with type(self).schema.isolated("one-1") as one, one.connect() as connection:
                self.assertEqual(("nl",), connection.execute(query).fetchone())
                connection.execute("create table countries as select 'be' as code")
                self.assertEqual(("be",), connection.execute(query).fetchone())

    def test_a_connection_that_resets_its_settings_still_sees_the_schema(self) -> None:
        """`RESET ALL` and `DISCARD ALL`, as poolers send them, do not lose the search path."""
        with self.schema.connect(autocommit=True) as connection:
            connection.execute("set search_path to public")
            connection.execute("discard all")
            self.assertEqual((self.schema.schema,), connection.execute(SCHEMA).fetchone())

    def test_connections_are_closed_after_the_test(self) -> None:
        """What a test leaves open is closed with its state."""
        with type(self).schema.isolated("leaves-1") as handle:
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
                use(self.schema)

    def test_info_tells_version_database_and_schema(self) -> None:
        """What one prints when a test fails."""
        info = self.schema.info()
        self.assertRegex(self.schema.server_version, r"^\d+(\.\d+)+$")
        self.assertIn(f"PostgreSQL {self.schema.server_version}", str(info["server"]))
        self.assertEqual(self.schema.database, info["database"])
        self.assertEqual(self.schema.schema, info["schema"])

    # Other databases, and roles

    def test_a_role_finds_what_it_is_granted_in_the_tests_schema(self) -> None:
        """The schema itself is open to the class's roles."""
        with self.schema.connect(autocommit=True) as connection:
            connection.execute("create table t as select 3 as id")
            connection.execute("grant select on t to app")
        with self.schema.as_role("app").connect() as connection:
            self.assertEqual((3,), connection.execute("select id from t").fetchone())

    def test_each_database_has_its_own_migration(self) -> None:
        """A function, a coroutine function, a MetaData, or none at all."""
        with self.database.engine.connect() as connection:
            self.assertEqual(1, connection.scalar(text("select id from orders")))
        with self.database.in_database("reports").engine.connect() as connection:
            self.assertEqual(2, connection.scalar(text("select id from reports")))
        with self.database.in_database("books").connect() as connection:
            connection.execute("select id from books")
        with self.database.in_database("the audit").connect() as connection:
            self.assertEqual((None,), connection.execute("select to_regclass('orders')").fetchone())

    def test_each_database_is_isolated(self) -> None:
        """What one test does to any of them, the next does not see."""
        for _ in range(2):
            with type(self).database.isolated("test_one-1") as one:
                for name in ("reports", "the audit"):
                    self.assertIs(one.in_database(name).engine, one.in_database(name).engine)
                    with one.in_database(name).engine.begin() as connection:
                        connection.execute(text("create table mine(id int)"))

    def test_a_role_may_do_what_it_was_granted(self) -> None:
        """It reads, and does not write."""
        with self.database.as_role("reader").connect() as connection:
            self.assertEqual((1,), connection.execute("select id from orders").fetchone())
            with self.assertRaises(psycopg.errors.InsufficientPrivilege):
                connection.execute("delete from orders")

    def test_a_roles_password_is_secret(self) -> None:
        """It is masked wherever the service's own is."""
        password = self.database.as_role("reader").password or "?"
        self.assertEqual("it is ***", masked(f"it is {password}", self.database.secrets()))
        self.assertNotIn(password, self.database.logs())

    def test_extensions_are_in_every_database(self) -> None:
        """Without a schema's name before them."""
        for handle in (self.database, self.database.in_database("reports")):
            with handle.connect() as connection:
                connection.execute("select similarity('a', 'b'), uuid_generate_v4()")

    def test_what_is_not_declared_is_told(self) -> None:
        """The error lists what there is."""
        with self.assertRaisesRegex(DeclarationError, "no role 'boss'; it has 'app', 'reader'"):
            self.database.as_role("boss")
        with self.assertRaisesRegex(DeclarationError, "no other database 'nope'; it has 'reports'"):
            self.database.in_database("nope")

    def test_the_classs_handle_has_relatives_too(self) -> None:
        """For setUpClass."""
        handle = type(self).database.in_database("reports").as_role("app")
        with handle.connect() as connection:
            row = connection.execute("select current_database(), current_user").fetchone()
        self.assertEqual(("reports", "app"), row)
