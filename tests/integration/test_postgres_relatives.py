"""Postgres: several databases, roles and extensions."""

import unittest

import psycopg
import sqlalchemy
from sqlalchemy import Column, Integer, MetaData, Table, text

from orchestrator import Postgres, ServicesMixin
from orchestrator.errors import DeclarationError
from orchestrator.services.options import masked

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


class RelativesTest(ServicesMixin, unittest.TestCase):
    """One server with two databases, two roles and two extensions."""

    db = Postgres(
        migrate=make_orders,
        databases={"reports": make_reports, "the audit": None, "books": BOOKS},
        roles=["reader", "the app"],
        extensions=["pg_trgm", "uuid-ossp"],
    )

    def test_each_database_has_its_own_migration(self) -> None:
        """A function, a coroutine function, a MetaData, or none at all."""
        with self.db.engine.connect() as connection:
            self.assertEqual(1, connection.scalar(text("select id from orders")))
        with self.db.in_database("reports").engine.connect() as connection:
            self.assertEqual(2, connection.scalar(text("select id from reports")))
        with self.db.in_database("books").connect() as connection:
            connection.execute("select id from books")
        with self.db.in_database("the audit").connect() as connection:
            self.assertEqual((None,), connection.execute("select to_regclass('orders')").fetchone())

    def test_each_database_is_isolated(self) -> None:
        """What one test does to any of them, the next does not see."""
        for _ in range(2):
            with type(self).db.isolated("test_one-1") as one:
                for name in ("reports", "the audit"):
                    self.assertIs(one.in_database(name).engine, one.in_database(name).engine)
                    with one.in_database(name).engine.begin() as connection:
                        connection.execute(text("create table mine(id int)"))

    def test_a_role_may_do_what_it_was_granted(self) -> None:
        """It reads, and does not write."""
        with self.db.as_role("reader").connect() as connection:
            self.assertEqual((1,), connection.execute("select id from orders").fetchone())
            with self.assertRaises(psycopg.errors.InsufficientPrivilege):
                connection.execute("delete from orders")

    def test_a_role_in_another_database(self) -> None:
        """The two go together."""
        handle = self.db.in_database("the audit").as_role("the app")
        with handle.engine.connect() as connection:
            row = connection.execute(text("select current_user, current_database()")).one()
        self.assertEqual(("the app", handle.database), tuple(row))

    def test_a_roles_password_is_secret(self) -> None:
        """It is masked wherever the service's own is."""
        password = self.db.as_role("reader").password or "?"
        self.assertEqual("it is ***", masked(f"it is {password}", self.db.secrets()))
        self.assertNotIn(password, self.db.logs())

    def test_extensions_are_in_every_database(self) -> None:
        """Without a schema's name before them."""
        for handle in (self.db, self.db.in_database("reports")):
            with handle.connect() as connection:
                connection.execute("select similarity('a', 'b'), uuid_generate_v4()")

    def test_what_is_not_declared_is_told(self) -> None:
        """The error lists what there is."""
        with self.assertRaisesRegex(DeclarationError, "no role 'boss'; it has 'reader', 'the app'"):
            self.db.as_role("boss")
        with self.assertRaisesRegex(DeclarationError, "no other database 'nope'; it has 'reports'"):
            self.db.in_database("nope")

    def test_the_classs_handle_has_relatives_too(self) -> None:
        """For setUpClass."""
        handle = type(self).db.in_database("reports").as_role("the app")
        with handle.connect() as connection:
            row = connection.execute("select current_database(), current_user").fetchone()
        self.assertEqual(("reports", "the app"), row)
