"""Postgres: what each test gets, and that it is gone afterwards."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sqlalchemy import Column, Integer, MetaData, Table, text

from orchestrator import Postgres, ServicesMixin
from orchestrator.errors import ServiceError

if TYPE_CHECKING:
    import sqlalchemy

_SCHEMAS = "select nspname from pg_namespace where nspname like 'test%'"
_DATABASES = "select datname from pg_database where datname like 'test\\_%'"


def tables(engine: sqlalchemy.Engine) -> list[str]:
    """The tables that an unqualified name finds."""
    with engine.connect() as connection:
        found = connection.execute(
            text(
                "select relname from pg_class where relkind = 'r' and pg_table_is_visible(oid)"
                " and relnamespace::regnamespace::text not like 'pg\\_%'"
                " and relnamespace::regnamespace::text <> 'information_schema' order by 1"
            )
        )
        return list(found.scalars())


class SchemaTest(ServicesMixin, unittest.TestCase):
    """isolation="schema", the default."""

    db = Postgres()

    def test_tests_do_not_see_each_others_tables(self) -> None:
        """A table of one test is not there in the next."""
        with type(self).db.isolated("one-1") as one, one.engine.begin() as connection:
            connection.execute(text("create table t(id int)"))
        with type(self).db.isolated("two-2") as two:
            self.assertEqual([], tables(two.engine))

    def test_the_schema_is_gone_after_the_test(self) -> None:
        """Only the schema of the test that asks is there."""
        with type(self).db.isolated("one-1"):
            pass
        with self.db.engine.connect() as connection:
            self.assertEqual([self.db.schema], list(connection.execute(text(_SCHEMAS)).scalars()))

    def test_every_kind_of_object_goes_with_the_schema(self) -> None:
        """Types, functions, views and sequences with dependencies among them are dropped."""
        for _ in range(2):
            with type(self).db.isolated("same-1") as handle, handle.engine.begin() as connection:
                connection.execute(text("create type mood as enum ('sad', 'ok')"))
                connection.execute(text("create table people(id serial primary key, now mood)"))
                connection.execute(text("create view happy as select * from people"))
                connection.execute(
                    text("create function f() returns int language sql as 'select 1'")
                )


class ClassDataTest(ServicesMixin, unittest.TestCase):
    """isolation="schema" beside tables that setUpClass made."""

    db = Postgres()

    @classmethod
    def setUpClass(cls) -> None:
        """Make what the tests look at."""
        super().setUpClass()
        with cls.db.engine.begin() as connection:
            connection.execute(text("create table countries as select 'nl' as code"))

    def test_the_classs_tables_are_seen(self) -> None:
        """What setUpClass made is found by its unqualified name, by every test."""
        for name in ("one-1", "two-2"):
            with type(self).db.isolated(name) as handle, handle.engine.connect() as connection:
                self.assertEqual("nl", connection.scalar(text("select code from countries")))

    def test_new_tables_are_the_tests_own(self) -> None:
        """A table of the same name hides the class's, and goes with the test."""
        with type(self).db.isolated("one-1") as one, one.engine.begin() as connection:
            connection.execute(text("create table countries as select 'be' as code"))
            self.assertEqual("be", connection.scalar(text("select code from countries")))
        with self.db.engine.connect() as connection:
            self.assertEqual("nl", connection.scalar(text("select code from countries")))


class DatabaseTest(ServicesMixin, unittest.TestCase):
    """isolation="database": each test gets a clone of the class's database."""

    migrated: ClassVar[list[str]] = []

    @staticmethod
    def migrate(engine: sqlalchemy.Engine) -> None:
        """A table with a row."""
        DatabaseTest.migrated.append("once")
        with engine.begin() as connection:
            connection.execute(text("create table t(id int)"))
            connection.execute(text("insert into t values (1)"))

    db = Postgres(isolation="database", migrate=migrate)

    def test_migrations_run_once(self) -> None:
        """Clones carry what the migration made; nobody migrates again."""
        for name in ("one-1", "two-2"):
            with type(self).db.isolated(name) as handle:
                self.assertEqual(["t"], tables(handle.engine))
        self.assertEqual(["once"], self.migrated)

    def test_tests_do_not_see_each_others_rows(self) -> None:
        """Rows that one test inserts and deletes change nothing for the next."""
        with type(self).db.isolated("one-1") as one, one.engine.begin() as connection:
            connection.execute(text("delete from t"))
            connection.execute(text("insert into t values (7), (8)"))
        with self.db.engine.connect() as connection:
            self.assertEqual([1], list(connection.execute(text("select id from t")).scalars()))

    def test_the_clone_is_gone_after_the_test_that_left_connections_open(self) -> None:
        """Open connections, in a transaction or not, do not keep the database."""
        with type(self).db.isolated("one-1") as one:
            import psycopg

            idle, busy = psycopg.connect(one.dsn), psycopg.connect(one.dsn)
            self.addCleanup(idle.close)
            self.addCleanup(busy.close)
            busy.execute("lock table t")
        with self.db.engine.connect() as connection:
            found = list(connection.execute(text(_DATABASES)).scalars())
        self.assertEqual([self.db.database], found)

    def test_an_idle_connection_to_the_template_does_not_forbid_cloning(self) -> None:
        """A pool that setUpClass left behind is cut off, not told as an error."""
        with type(self).db.connect() as connection:
            connection.execute("select 1")
            connection.commit()
            with type(self).db.isolated("one-1") as one:
                self.assertEqual(["t"], tables(one.engine))

    def test_a_transaction_in_the_template_is_told(self) -> None:
        """What forbids cloning is named, with what to do."""
        with type(self).db.connect(application_name="seeder") as connection:
            connection.execute("select 42")
            with (
                self.assertRaisesRegex(ServiceError, "seeder.*select 42.*End what setUpClass"),
                type(self).db.isolated("one-1"),
            ):
                pass

    def test_data_of_set_up_class_is_cloned(self) -> None:
        """What the class adds to its database before a test is in that test's clone."""
        with type(self).db.engine.begin() as connection:
            connection.execute(text("create table seeds as select 1 as id"))
        try:
            with type(self).db.isolated("one-1") as one:
                self.assertEqual(["seeds", "t"], tables(one.engine))
        finally:
            with type(self).db.engine.begin() as connection:
                connection.execute(text("drop table seeds"))


class NoIsolationTest(ServicesMixin, unittest.TestCase):
    """isolation="none": tests share the class's database."""

    db = Postgres(isolation="none", database="shop", username="owner")

    def test_tests_share_everything(self) -> None:
        """A table of one test is there in the next."""
        with type(self).db.isolated("one-1") as one, one.engine.begin() as connection:
            connection.execute(text("create table t(id int)"))
        self.assertEqual(["t"], tables(self.db.engine))
        self.assertEqual(("shop", "public"), (self.db.database, self.db.schema))


class InitTest(ServicesMixin, unittest.TestCase):
    """With init files, "schema" becomes a clone."""

    folder: ClassVar[tempfile.TemporaryDirectory[str]] = tempfile.TemporaryDirectory()
    db = Postgres(init=[Path(folder.name) / "a.sql"])

    @classmethod
    def setUpClass(cls) -> None:
        """Make what the tests look at."""
        cls.addClassCleanup(cls.folder.cleanup)
        (Path(cls.folder.name) / "a.sql").write_text("create table made(id int);")
        super().setUpClass()

    def test_what_init_made_is_each_tests_own(self) -> None:
        """A test that drops the table does not take it from the next."""
        with type(self).db.isolated("one-1") as one, one.engine.begin() as connection:
            connection.execute(text("drop table made"))
        self.assertEqual(["made"], tables(self.db.engine))
        self.assertTrue(self.db._clones)


class MetadataTest(ServicesMixin, unittest.TestCase):
    """migrate= with a bound method of SQLAlchemy."""

    metadata = MetaData()
    Table("orders", metadata, Column("id", Integer, primary_key=True))
    db = Postgres(migrate=metadata.create_all)

    def test_tables_are_there(self) -> None:
        """create_all ran in the class's database."""
        self.assertEqual(["orders"], tables(self.db.engine))
