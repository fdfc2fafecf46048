"""Postgres with isolation="transaction": everything is rolled back, and looks as if it were not."""

import unittest
from typing import Any

import psycopg
from sqlalchemy import Connection, ForeignKey, select, text
from sqlalchemy.exc import (
    IntegrityError,
    InternalError,
    NotSupportedError,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from orchestrator import Postgres, ServicesMixin
from orchestrator.errors import ServiceError


class Base(DeclarativeBase):
    """The tables."""


class Account(Base):
    """With a name that is taken once, and a referrer that is looked for when all is said."""

    __tablename__ = "accounts"

    name: Mapped[str] = mapped_column(primary_key=True)
    referrer: Mapped[str | None] = mapped_column(
        ForeignKey("accounts.name", deferrable=True, initially="DEFERRED")
    )


class TransactionTest(ServicesMixin, unittest.TestCase):
    """One server, whose table is there before the first test."""

    db = Postgres(isolation="transaction", migrate=Base.metadata, roles=["app"])

    def assert_names(self, *names: str) -> None:
        """Expect what another connection of the test finds."""
        with self.db.engine.connect() as connection:
            found = connection.scalars(select(Account.name).order_by(Account.name))
            self.assertEqual([*names], [*found])

    def insert(self, connection: Connection, name: str) -> None:
        """Within the transaction of a connection."""
        connection.execute(text("insert into accounts values (:name)"), {"name": name})

    def add(self, name: str) -> None:
        """What the code under test does: a session of its own, committed."""
        with Session(self.db.engine) as session, session.begin():
            session.add(Account(name=name))

    def test_what_was_committed_is_gone_after_the_test(self) -> None:
        """All connections of the test share it, the next test does not; tables are the same."""
        for change in ("drop table accounts", "insert into accounts values ('ada')") * 2:
            with type(self).db.isolated("test_one-1") as one:
                with one.engine.begin() as connection:
                    connection.execute(text(change))
                if "insert" in change:
                    self.assertEqual("ada", one.session().scalars(select(Account.name)).one())
        self.assert_names()

    def test_a_rollback_or_a_close_undoes_what_was_not_committed(self) -> None:
        """And nothing else."""
        session = self.db.session()
        session.add(Account(name="ada"))
        session.commit()
        for undo in (session.rollback, session.close):
            session.add(Account(name="bob"))
            session.flush()
            undo()
        with self.db.engine.connect() as connection:
            self.insert(connection, "eve")
        self.assert_names("ada")

    def test_nested_transactions_of_the_user_work(self) -> None:
        """begin_nested is a savepoint within, kept or not; also SQLAlchemy's recipe for tests."""
        with Session(self.db.engine) as session, session.begin():
            session.add(Account(name="ada"))
            with self.assertRaises(IntegrityError), session.begin_nested():
                session.add(Account(name="ada"))
                session.flush()
            with session.begin_nested():
                session.add(Account(name="bob"))
        with self.db.engine.connect() as connection, connection.begin() as outer:
            with Session(connection, join_transaction_mode="create_savepoint") as session:
                session.add(Account(name="eve"))
                session.commit()
            self.assert_names("ada", "bob", "eve")
            outer.rollback()
        self.assert_names("ada", "bob")

    def test_deferred_constraints_are_checked_on_commit(self) -> None:
        """A commit fails as it would in production, and only then."""
        session = self.db.session()
        session.add(Account(name="ada", referrer="bob"))
        session.flush()
        with self.assertRaises(IntegrityError):
            session.commit()
        session.rollback()
        session.add(Account(name="ada", referrer="bob"))
        session.flush()
        session.add(Account(name="bob"))
        session.commit()
        self.assert_names("ada", "bob")

    def test_autocommit_works(self) -> None:
        """Each statement stands for itself, also one that fails."""
        with self.db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            self.insert(connection, "ada")
            with self.assertRaises(IntegrityError):
                self.insert(connection, "ada")
            self.insert(connection, "bob")
        self.assert_names("ada", "bob")

    def test_a_failed_transaction_does_not_block_the_others(self) -> None:
        """Before it is rolled back, other connections work; it does not."""
        with self.db.engine.connect() as failed:
            self.insert(failed, "eve")
            with self.assertRaises(IntegrityError):
                self.insert(failed, "eve")
            self.add("ada")
            with self.assertRaisesRegex(InternalError, "has failed; roll it back"):
                failed.execute(text("select 1"))
            failed.rollback()
            self.assertEqual(1, failed.scalar(text("select 1")))
            failed.commit()
        self.assert_names("ada")

    def test_what_cannot_be_told_apart_is_an_error(self) -> None:
        """Going back over another's work; also in one's own savepoint, or in the other's."""

        def over_a_commit(first: Connection, second: Connection) -> None:
            self.insert(first, "ada")
            self.insert(second, "bob")
            second.commit()
            first.rollback()

        def over_one_that_is_open(first: Connection, second: Connection) -> None:
            nested = first.begin_nested()
            self.insert(second, "bob")
            nested.rollback()

        def over_what_the_other_wrote_meanwhile(first: Connection, second: Connection) -> None:
            first.execute(select(Account))
            self.insert(second, "bob")
            self.insert(first, "ada")
            second.commit()
            first.rollback()

        for case in (over_a_commit, over_one_that_is_open, over_what_the_other_wrote_meanwhile):
            with self.subTest(case.__name__), type(self).db.isolated("test_one-1") as one:
                engine = one.engine
                with engine.connect() as first, engine.connect() as second:
                    case(first, second)
                with self.assertRaisesRegex(NotSupportedError, "isolation='database'"):
                    one.session().execute(select(Account))

    def test_what_it_cannot_do_is_told(self) -> None:
        """Other kinds of transactions, and connections that are not the engine's."""
        engine = self.db.engine
        raw = engine.raw_connection()
        self.addCleanup(raw.close)
        refused: dict[str, Any] = {
            "SERIALIZABLE": lambda: engine.connect().execution_options(
                isolation_level="SERIALIZABLE"
            ),
            "READ ONLY": lambda: engine.connect().execution_options(postgresql_readonly=True),
            "two-phase": lambda: engine.connect().begin_twophase(),
            "use the engine's begin": raw.rollback,
            "use engine": self.db.connect,
            "async_engine needs": lambda: self.db.async_engine,
            "a role needs": lambda: self.db.as_role("app"),
        }
        expected = (psycopg.NotSupportedError, NotSupportedError, ServiceError)
        for told, use in refused.items():
            with self.subTest(told), self.assertRaisesRegex(expected, f"{told}.*isolation='data"):
                use()

    def test_commit_in_sql(self) -> None:
        """A COMMIT that is written out ends the shared transaction: the test is told."""
        with (
            self.assertRaisesRegex(ServiceError, "COMMIT or ROLLBACK in SQL"),
            type(self).db.isolated("test_one-1") as one,
            one.engine.connect() as connection,
        ):
            connection.execute(text("commit"))

    def test_a_connection_that_outlives_its_test_is_refused(self) -> None:
        """It does not reach into the next test's transaction."""
        with type(self).db.isolated("test_one-1") as one:
            engine = one.engine
            connection = one.engine.connect()
            connection.execute(text("select 1"))
        with self.assertRaises(psycopg.OperationalError):
            connection.connection.cursor().execute("select 1")
        connection.invalidate()
        connection.close()
        with self.assertRaisesRegex(Exception, "has ended"):
            engine.connect()

    def test_a_restart_rolls_back_and_goes_on(self) -> None:
        """As with any transaction that a restart meets."""
        self.add("ada")
        self.db.restart()
        self.assert_names()
        self.add("bob")
        self.assert_names("bob")

    def test_the_class_is_outside_of_it(self) -> None:
        """Its handle commits, and any other program sees only what it committed."""
        with type(self).db.engine.begin() as connection:
            self.insert(connection, "root")
        try:
            self.add("ada")
            self.assert_names("ada", "root")
            with psycopg.connect(self.db.dsn) as connection:
                self.assertEqual(
                    [("root",)], connection.execute("select name from accounts").fetchall()
                )
        finally:
            with type(self).db.engine.begin() as connection:
                connection.execute(text("delete from accounts"))

    def test_what_was_made_past_it_is_gone_as_well(self) -> None:
        """By a connection that a test opens by itself, which commits."""
        with (
            type(self).db.isolated("test_one-1") as one,
            psycopg.connect(one.dsn, autocommit=True) as connection,
        ):
            for statement in ("create table left_over()", "create role left_over"):
                connection.execute(statement)
            connection.execute("alter role current_user set work_mem = '66kB'")
        with type(self).db.isolated("test_two-2") as two, psycopg.connect(two.dsn) as connection:
            found = "to_regclass('left_over'), to_regrole('left_over'), current_setting('work_mem')"
            row = connection.execute(f"select {found}").fetchone()
        self.assertEqual((None, None, "4MB"), row)
