"""Postgres with isolation="transaction": everything is rolled back, and looks as if it were not."""

from __future__ import annotations

import gc
import threading
import unittest
import warnings

import psycopg
from sqlalchemy import Connection, Engine, ForeignKey, create_engine, insert, select, text
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InternalError,
    NotSupportedError,
    ProgrammingError,
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


class TransactionTestCase(ServicesMixin, unittest.TestCase):
    """One server for each class; the tables are there before the first test."""

    db = Postgres(isolation="transaction", migrate=Base.metadata, roles=["app"])

    def names(self) -> list[str]:
        """What another connection of the test finds."""
        with self.db.engine.connect() as connection:
            return list(connection.scalars(select(Account.name).order_by(Account.name)))

    def insert(self, connection: Connection, name: str) -> None:
        """Within the transaction of a connection."""
        connection.execute(text("insert into accounts values (:name)"), {"name": name})

    def add(self, name: str) -> None:
        """What the code under test does: a session of its own, committed."""
        with Session(self.db.engine) as session, session.begin():
            session.add(Account(name=name))


class SessionsTest(TransactionTestCase):
    """SQLAlchemy sessions and engines, as an application uses them."""

    def test_commits_are_gone_after_the_test(self) -> None:
        """The next test finds what the class had."""
        for _ in range(2):
            with type(self).db.isolated("test_one-1") as one, one.session() as session:
                session.add(Account(name="ada"))
                session.commit()
                self.assertEqual(1, len(session.scalars(select(Account)).all()))
        self.assertEqual([], self.names())

    def test_what_one_session_commits_another_sees(self) -> None:
        """All connections of the test share what was committed."""
        self.add("ada")
        self.assertEqual(["ada"], self.names())

    def test_a_rollback_undoes_what_was_not_committed(self) -> None:
        """And nothing else."""
        session = self.db.session()
        session.add(Account(name="ada"))
        session.commit()
        session.add(Account(name="bob"))
        session.flush()
        session.rollback()
        self.assertEqual(["ada"], self.names())

    def test_closing_undoes_what_was_not_committed(self) -> None:
        """As the server does when a client goes."""
        with Session(self.db.engine) as session:
            session.add(Account(name="ada"))
            session.flush()
        with self.db.engine.connect() as connection:
            self.insert(connection, "bob")
        self.assertEqual([], self.names())

    def test_an_error_leaves_the_test_usable(self) -> None:
        """A unique violation is rolled back as ever; what was committed before stays."""
        self.add("ada")
        with self.assertRaises(IntegrityError):
            self.add("ada")
        self.add("bob")
        self.assertEqual(["ada", "bob"], self.names())

    def test_nested_transactions_of_the_user_work(self) -> None:
        """begin_nested is a savepoint within."""
        with Session(self.db.engine) as session, session.begin():
            session.add(Account(name="ada"))
            with self.assertRaises(IntegrityError), session.begin_nested():
                session.add(Account(name="ada"))
                session.flush()
            session.add(Account(name="bob"))
        self.assertEqual(["ada", "bob"], self.names())

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
        self.assertEqual(["ada", "bob"], self.names())

    def test_autocommit_works(self) -> None:
        """Each statement stands for itself, also one that fails."""
        with self.db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("insert into accounts values ('ada')"))
            with self.assertRaises(IntegrityError):
                connection.execute(text("insert into accounts values ('ada')"))
            connection.execute(text("insert into accounts values ('bob')"))
        self.assertEqual(["ada", "bob"], self.names())

    def test_many_rows_at_once(self) -> None:
        """Executemany, and rows that the server hands out piece by piece."""
        with self.db.session() as session, session.begin():
            session.execute(insert(Account), [{"name": "ada"}, {"name": "bob"}])
        with self.db.engine.connect().execution_options(stream_results=True) as connection:
            self.assertEqual(["ada", "bob"], [*connection.scalars(select(Account.name))])

    def test_a_session_on_a_connection(self) -> None:
        """SQLAlchemy's own recipe for test suites works within."""
        with self.db.engine.connect() as connection:
            outer = connection.begin()
            with Session(connection, join_transaction_mode="create_savepoint") as session:
                session.add(Account(name="ada"))
                session.commit()
                session.add(Account(name="bob"))
                session.rollback()
            self.assertEqual(["ada"], self.names())
            outer.rollback()
        self.assertEqual([], self.names())

    def test_schema_changes_are_rolled_back_too(self) -> None:
        """A table that one test drops is there for the next."""
        with type(self).db.isolated("test_one-1") as one, one.engine.begin() as connection:
            connection.execute(text("drop table accounts"))
        self.assertEqual([], self.names())


class OverlapTest(TransactionTestCase):
    """Connections that are in transactions at the same time."""

    def test_a_session_that_only_reads_may_stay_open(self) -> None:
        """The test looks on while the code under test commits; ending the look undoes nothing."""
        with self.db.engine.connect() as looking:
            count = text("select count(*) from accounts")
            self.assertEqual(0, looking.scalar(count))
            self.add("ada")
            self.assertEqual(1, looking.scalar(count))
            self.add("bob")
            self.assertEqual(2, looking.scalar(count))
        self.assertEqual(["ada", "bob"], self.names())

    def test_a_reader_that_fails_undoes_nothing(self) -> None:
        """Also when it must go back because of an error."""
        with self.db.engine.connect() as looking:
            looking.execute(select(Account))
            self.add("ada")
            with self.assertRaises(ProgrammingError):
                looking.execute(text("select * from nowhere"))
            looking.rollback()
        self.assertEqual(["ada"], self.names())

    def test_a_reader_that_writes_later_goes_back_to_there(self) -> None:
        """Its own work is undone, the other's commit is not."""
        with self.db.engine.connect() as connection:
            connection.execute(select(Account))
            self.add("ada")
            self.insert(connection, "bob")
            connection.rollback()
        self.assertEqual(["ada"], self.names())

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
        self.assertEqual(["ada"], self.names())

    def test_commits_in_any_order(self) -> None:
        """Who began first may commit first."""
        with self.db.engine.connect() as first, self.db.engine.connect() as second:
            self.insert(first, "ada")
            self.insert(second, "bob")
            first.commit()
            second.commit()
        self.assertEqual(["ada", "bob"], self.names())

    def test_a_rollback_that_takes_others_along_is_an_error(self) -> None:
        """What cannot be told apart is told, not guessed."""
        with self.db.engine.connect() as first:
            self.insert(first, "ada")
            self.add("bob")
            first.rollback()
        with self.assertRaisesRegex(NotSupportedError, "isolation='database'"):
            self.names()
        with self.assertRaisesRegex(NotSupportedError, "isolation='database'"):
            self.add("eve")

    def test_a_savepoint_that_another_connection_began_in_is_an_error(self) -> None:
        """Ending it would end what is not its own."""
        with self.db.engine.connect() as first, self.db.engine.connect() as second:
            nested = first.begin_nested()
            self.insert(second, "bob")
            with self.assertRaisesRegex(NotSupportedError, "isolation='database'"):
                nested.rollback()

    def test_a_connection_that_nobody_closed_is_rolled_back(self) -> None:
        """As the pool does with one that is garbage."""
        connection = self.db.engine.connect()
        self.insert(connection, "eve")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del connection
            gc.collect()
        self.add("ada")
        self.assertEqual(["ada"], self.names())

    def test_threads_share_the_transaction(self) -> None:
        """What each commits is there."""
        threads = [threading.Thread(target=self.add, args=[f"n{n}"]) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(["n0", "n1", "n2", "n3"], self.names())


class LimitsTest(TransactionTestCase):
    """What this isolation cannot do is told."""

    def test_other_kinds_of_transactions(self) -> None:
        """SERIALIZABLE, read only, or in two phases."""
        for options, told in (
            ({"isolation_level": "SERIALIZABLE"}, "SERIALIZABLE use isolation='database'"),
            ({"postgresql_readonly": True}, "READ ONLY use isolation='database'"),
        ):
            with (
                self.subTest(told),
                self.db.engine.connect() as connection,
                self.assertRaisesRegex(psycopg.NotSupportedError, told),
            ):
                connection.execution_options(**options)
        with (
            self.db.engine.connect() as connection,
            self.assertRaisesRegex(psycopg.NotSupportedError, "two-phase"),
        ):
            connection.begin_twophase()

    def test_connections_that_cannot_join(self) -> None:
        """Psycopg's, asyncio's, and SQLAlchemy's raw ones."""
        for make in (self.db.connect, lambda: self.db.async_engine):
            with self.assertRaisesRegex(
                ServiceError, "one session's transaction, and .* needs|join"
            ):
                make()
        raw = self.db.engine.raw_connection()
        self.addCleanup(raw.close)
        with self.assertRaisesRegex(psycopg.NotSupportedError, "use the engine's begin"):
            raw.rollback()

    def test_commit_in_sql(self) -> None:
        """A COMMIT that is written out ends the shared transaction: the test is told."""
        with (
            self.assertRaisesRegex(ServiceError, "COMMIT or ROLLBACK in SQL"),
            type(self).db.isolated("test_one-1") as one,
            one.engine.connect() as connection,
        ):
            connection.execute(text("commit"))
        self.assertEqual([], self.names())

    def test_roles(self) -> None:
        """A role needs a connection of its own."""
        with self.assertRaisesRegex(ServiceError, "isolation='database' or 'schema'"):
            self.db.as_role("app")

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
        self.db.engine.dispose()
        self.assertEqual([], self.names())
        self.add("bob")
        self.assertEqual(["bob"], self.names())

    def test_a_thread_that_is_still_at_it_is_cut_off(self) -> None:
        """The next test does not wait for a query of this one."""
        errors: list[Exception] = []

        def sleep(engine: Engine) -> None:
            try:
                with engine.connect() as connection:
                    connection.execute(text("select pg_sleep(3600)"))
            except DBAPIError as error:
                errors.append(error)

        with type(self).db.isolated("test_one-1") as one:
            session = one.session()
            session.add(Account(name="ada"))
            session.flush()
            thread = threading.Thread(target=sleep, args=[one.engine])
            thread.start()
            while not self.sleepers():
                thread.join(0.01)
        thread.join(10)
        self.assertEqual(1, len(errors))
        self.assertEqual([], self.names())

    def sleepers(self) -> int:
        """How many statements sleep on the server."""
        with psycopg.connect(type(self).db.dsn) as connection:
            row = connection.execute(
                "select count(*) from pg_stat_activity where query ~ '^select pg_sleep'"
                " and state = 'active'"
            ).fetchone()
        return row[0] if row else 0

    def test_the_classs_handle_commits(self) -> None:
        """What setUpClass makes is seen by every test."""
        with type(self).db.engine.begin() as connection:
            connection.execute(text("insert into accounts values ('root')"))
        try:
            self.assertEqual(["root"], self.names())
        finally:
            with type(self).db.engine.begin() as connection:
                connection.execute(text("delete from accounts"))

    def test_the_dsn_leads_past_the_transaction(self) -> None:
        """Another program sees what the class committed, not what the test did."""
        self.add("ada")
        engine = create_engine(self.db.sqlalchemy_url)
        self.addCleanup(engine.dispose)
        with engine.connect() as connection:
            self.assertEqual(0, connection.scalar(text("select count(*) from accounts")))
        with self.assertRaises(ProgrammingError), engine.connect() as connection:
            connection.execute(text("select * from nowhere"))
