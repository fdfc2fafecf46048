"""Postgres: what each test gets, and that it is gone afterwards."""

import os
import threading
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import psycopg
import sqlalchemy
from sqlalchemy import text

from orchestrator import Postgres, Services
from orchestrator.errors import ServiceError
from orchestrator.probes.waiting import poll
from tests.faults.process import await_that


def run(handle: Postgres, *statements: str) -> None:
    """Execute statements as a test does."""
    with handle.engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def rows(handle: Postgres, query: str) -> list[object]:
    """The first column of what a query finds."""
    with handle.engine.connect() as connection:
        return list(connection.scalars(text(query)))


MIGRATED: list[str] = []


def migrate(engine: sqlalchemy.Engine) -> None:
    """A table with a row, beside that of the init file."""
    MIGRATED.append("once")
    with engine.begin() as connection:
        connection.execute(text("create table t as select 1 as id"))


class Shop(Services):
    """A database whose clones tests get."""

    db = Postgres(migrate=migrate, init=[Path(__file__).with_name("shared.sql")])


class DatabaseTest(unittest.TestCase):
    """With migrate= or init= each test gets a clone of the class's database, made ahead or not."""

    shop: ClassVar[Shop]

    @classmethod
    def setUpClass(cls) -> None:
        """One server."""
        cls.shop = cls.enterClassContext(Shop())

    def outside(self, statement: str) -> list[object]:
        """The first column of what is found from a database that is nobody's."""
        with psycopg.connect(self.shop.db.dsn, dbname="postgres", autocommit=True) as connection:
            done = connection.execute(statement)
            return [row[0] for row in done] if done.description else []

    def made(self, names: str = "test_%") -> set[object]:
        """The databases that are there, but for the class's."""
        return set(self.outside(f"select datname from pg_database where datname like '{names}'"))

    def use(self, *statements: str) -> list[object]:
        """What a test finds in its table before it executes some statements."""
        with self.shop.isolated("one") as clean:
            found = rows(clean.db, "select id from t")
            run(clean.db, *statements)
        return found

    def test_tests_do_not_see_each_others_work(self) -> None:
        """Each has what init and the migration made, which ran once."""
        for name in ("one-1", "two-2"):
            with self.shop.db.isolated(name) as handle:
                self.assertEqual([1], rows(handle, "select id from t"))
                run(handle, "insert into t values (7), (8)", "drop table dumped")
        self.assertEqual([], rows(self.shop.db, "select id from dumped"))
        self.assertEqual(["once"], MIGRATED)

    def test_the_clone_is_gone_after_the_test_that_left_connections_open(self) -> None:
        """Open connections, in a transaction or not, do not keep the database."""
        with self.shop.db.isolated("one-1") as one:
            for statement in ("select 1", "lock table t"):
                connection = psycopg.connect(one.dsn, autocommit=statement == "select 1")
                self.addCleanup(connection.close)
                connection.execute(statement)
        gone = f"select count(*) from pg_database where datname = '{one.database}'"
        await_that(lambda: rows(self.shop.db, gone) == [0], "it is still there")  # no test waits

    def test_a_transaction_in_the_template_is_told(self) -> None:
        """What forbids cloning is named, with what to do."""
        with self.shop.db.connect(application_name="seeder") as connection:
            connection.execute("select 42")
            with (
                self.assertRaisesRegex(ServiceError, "seeder.*select 42.*End what setUpClass"),
                self.shop.db.isolated("one-1"),
            ):
                pass

    def test_data_of_set_up_class_is_cloned(self) -> None:
        """What the class adds to its database before a test is in that test's clone."""
        run(self.shop.db, "create table seeds as select 1 as id")
        self.addCleanup(run, self.shop.db, "drop table seeds")
        with self.shop.db.isolated("one-1") as one:
            self.assertEqual([1], rows(one, "select id from seeds"))

    # Ahead: the copy of the next test is made while one runs

    def test_a_test_that_does_not_read_the_service_has_no_database(self) -> None:
        """None is copied for it before it does."""
        with self.shop.isolated("idle") as clean:
            self.assertEqual(set(), self.made("test_idle%"))
            self.assertEqual({clean.db.database}, self.made("test_idle%"))

    def test_a_copy_is_made_while_the_test_before_runs(self) -> None:
        """It is what the next test gets."""
        self.use("insert into t values (7)")
        ahead = set[object]()

        def made() -> bool:
            with self.shop.isolated("one") as clean:
                self.assertEqual([1], rows(clean.db, "select id from t"))
                ahead.update(poll(lambda: self.made("test_next_%"), timeout=10))
            return bool(ahead)

        await_that(made, "none was made")
        with self.shop.isolated("two") as clean:
            self.assertEqual([1], rows(clean.db, "select id from t"))
            self.assertFalse(ahead & self.made(), "another one was made")

    def test_what_the_class_gets_meanwhile_is_in_the_next(self) -> None:
        """It was not there when the next one was made."""
        self.use()
        with self.shop.isolated("one") as clean:
            self.assertEqual([1], rows(clean.db, "select id from t"))
            run(self.shop.db, "insert into t values (2)")
            self.addCleanup(run, self.shop.db, "delete from t where id = 2")
        self.assertEqual([1, 2], self.use())

    def test_settings_of_the_database_are_those_of_now(self) -> None:
        """Made ahead or not."""
        for size in ("65kB", "66kB"):
            self.outside(f"alter database test set work_mem = '{size}'")
            self.addCleanup(self.outside, "alter database test reset work_mem")
            with self.shop.isolated("one") as clean:
                self.assertEqual([size], rows(clean.db, "select current_setting('work_mem')"))

    def test_two_at_once_have_one_each(self) -> None:
        """Also in threads; the one that ends leaves the other's alone."""

        def use(number: int) -> list[object]:
            with self.shop.isolated("one") as clean:
                run(clean.db, f"insert into t values ({number})")
                both.wait(30)
                return rows(clean.db, "select id from t where id <> 1")

        both = threading.Barrier(2)
        with ThreadPoolExecutor(2) as pool:
            self.assertEqual([[11], [12]], list(pool.map(use, [11, 12])))

    def test_a_child_has_the_database_of_the_test_that_forked_it(self) -> None:
        """Though the test has not read the service before."""
        self.use()
        with self.shop.isolated("one") as clean:
            child = os.fork()
            if child == 0:
                run(clean.db, "insert into t values (3)")
                os._exit(0)
            self.assertEqual(0, os.waitpid(child, 0)[1])
            self.assertEqual([1, 3], rows(clean.db, "select id from t order by id"))
