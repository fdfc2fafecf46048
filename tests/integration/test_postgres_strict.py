"""Postgres with strict=True: a test that reaches for another's fails, and both are named."""

from __future__ import annotations

import contextlib
import unittest
from typing import ClassVar

import psycopg
from sqlalchemy import text

from orchestrator import Postgres, ServicesMixin
from orchestrator.errors import ServiceError
from tests.support.classes import LeakCheckedTestCase, run_class

METHODS = "test_one-1", "test_two-2"


class StrictSchemaTest(ServicesMixin, unittest.TestCase):
    """isolation="schema"."""

    db = Postgres(strict=True, databases=["reports"], roles=["app"])

    @classmethod
    def setUpClass(cls) -> None:
        """A table of the class's, in the class's schema."""
        super().setUpClass()
        with cls.db.engine.begin() as connection:
            connection.execute(text("create table countries as select 'nl' as code"))

    def test_a_test_that_keeps_to_itself_passes(self) -> None:
        """It does in its schema what it likes, and reads what is the class's."""
        with self.db.connect(autocommit=True) as connection:
            connection.execute("create table t as select 1 as id")
            connection.execute("drop table t")
            self.assertEqual(("nl",), connection.execute("select code from countries").fetchone())
        with self.db.in_database("reports").connect() as connection:
            connection.execute("create table t as select 1 as id")

    def test_the_classs_tables_cannot_be_changed(self) -> None:
        """Nor can anything be made beside the schema."""
        with self.db.connect(autocommit=True) as connection:
            for statement in (
                "delete from countries",
                "create table public.t(id int)",
                "create role other",
                "create database other",
            ):
                with self.assertRaises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)

    def test_the_table_of_another_test_is_told_with_both_names(self) -> None:
        """Also when the code under test swallowed the error."""
        with type(self).db.isolated("test_one-1") as one, one.connect() as connection:
            connection.execute("create table t(id int)")
            table = f"{one.schema}.t"
        with (
            self.assertRaisesRegex(ServiceError, "test_two_2 reached for what test_one_1 had"),
            type(self).db.isolated("test_two-2") as two,
            two.connect() as connection,
            contextlib.suppress(psycopg.Error),
        ):
            connection.execute(f"select * from {table}")

    def test_the_table_of_a_test_that_still_runs_is_refused(self) -> None:
        """Two at once are apart too."""
        with type(self).db.isolated("test_one-1") as one, one.connect() as connection:
            connection.execute("create table t(id int)")
            connection.commit()
            with (
                self.assertRaisesRegex(ServiceError, "test_two_2 reached for what test_one_1 had"),
                type(self).db.isolated("test_two-2") as two,
                two.connect() as other,
                self.assertRaises(psycopg.errors.InsufficientPrivilege),
            ):
                other.execute(f"select * from {one.schema}.t")

    def test_a_client_of_an_earlier_test_is_told(self) -> None:
        """An engine that the application kept from the test before."""
        with type(self).db.isolated("test_one-1") as one:
            dsn = one.dsn
        with (
            self.assertRaisesRegex(ServiceError, "a client of test_one_1 was still at work during"),
            type(self).db.isolated("test_two-2"),
            contextlib.suppress(psycopg.OperationalError),
        ):
            psycopg.connect(dsn)

    def test_what_one_test_did_is_not_told_of_the_next(self) -> None:
        """Each answers for itself."""
        self.test_a_client_of_an_earlier_test_is_told()
        with type(self).db.isolated("test_three-3") as three, three.connect() as connection:
            connection.execute("select 1")

    def test_its_role_is_gone_after_the_test(self) -> None:
        """With all it owned."""
        with type(self).db.isolated("test_one-1") as one, one.connect() as connection:
            connection.execute("create table t(id int)")
        with self.db.connect() as connection:
            row = connection.execute(
                "select count(*) from pg_roles where rolname like 'test\\_one%'"
            ).fetchone()
        self.assertEqual((0,), row)


class StrictDatabaseTest(ServicesMixin, unittest.TestCase):
    """isolation="database"."""

    db = Postgres(strict=True, isolation="database")

    def test_a_test_that_keeps_to_itself_passes(self) -> None:
        """It is superuser in its clone."""
        with self.db.connect(autocommit=True) as connection:
            connection.execute("create table t(id int)")
            connection.execute("create role other")

    def test_the_database_of_another_test_is_told_with_both_names(self) -> None:
        """It is not there any more."""
        with type(self).db.isolated("test_one-1") as one:
            dsn = one.dsn
        with (
            self.assertRaisesRegex(ServiceError, "test_two_2 reached for what test_one_1 had"),
            type(self).db.isolated("test_two-2"),
            contextlib.suppress(psycopg.OperationalError),
        ):
            psycopg.connect(dsn)

    def test_the_classs_database_is_told(self) -> None:
        """What a test changed there, the next would find in its clone."""
        with (
            self.assertRaisesRegex(ServiceError, "test_one_1 connected to the class's database"),
            type(self).db.isolated("test_one-1"),
            contextlib.suppress(psycopg.OperationalError),
        ):
            type(self).db.connect()
        with type(self).db.isolated("test_two-2"):
            pass


class StrictTransactionTest(ServicesMixin, unittest.TestCase):
    """isolation="transaction"."""

    db = Postgres(strict=True, isolation="transaction")

    def test_the_transaction_may_do_everything(self) -> None:
        """It is rolled back anyway."""
        with self.db.engine.begin() as connection:
            connection.execute(text("create table public.t(id int)"))

    def test_the_dsn_may_only_read(self) -> None:
        """What it wrote would not be rolled back."""
        with (
            psycopg.connect(self.db.dsn, autocommit=True) as connection,
            self.assertRaises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("create table public.t(id int)")


class StrictClassTest(LeakCheckedTestCase):
    """As a user sees it."""

    def test_the_test_fails(self) -> None:
        """The error is the test's that reached, in a run of the class."""

        class Touches(ServicesMixin, unittest.TestCase):
            db = Postgres(strict=True)
            schemas: ClassVar[list[str]] = []

            def test_a(self) -> None:
                self.schemas.append(self.db.schema)

            def test_b(self) -> None:
                with contextlib.suppress(psycopg.Error), self.db.connect() as connection:
                    connection.execute(f"table {self.schemas[0]}.orders")

        [(test, text)] = run_class(Touches).errors
        self.assertTrue(test.id().endswith("Touches.test_b"), test.id())
        self.assertRegex(text, r"test_b_\w+ reached for what test_a_\w+ had")
