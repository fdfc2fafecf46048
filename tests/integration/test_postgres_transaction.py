"""Postgres with isolation="transaction": everything is rolled back, and looks as if it were not."""

from __future__ import annotations

import threading
import unittest

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import ForeignKey, create_engine, select, text
from sqlalchemy.exc import IntegrityError, NotSupportedError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession
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
        with self.db.connect() as connection:
            found = connection.execute("select name from accounts order by 1").fetchall()
        return [name for [name] in found]

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
        connection = self.db.connect()
        connection.execute("insert into accounts values ('bob')")
        connection.close()
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
        """executemany, which psycopg sends as a pipeline."""
        with self.db.connect() as connection, connection.cursor() as cursor:
            cursor.executemany("insert into accounts values (%s)", [("ada",), ("bob",)])
        self.assertEqual(["ada", "bob"], self.names())

    def test_copy(self) -> None:
        """COPY in and out."""
        with (
            self.db.connect() as connection,
            connection.cursor() as cursor,
            cursor.copy("copy accounts(name) from stdin") as copy,
        ):
            copy.write_row(("ada",))
        self.assertEqual(["ada"], self.names())

    def test_a_server_side_cursor(self) -> None:
        """DECLARE, fetch by fetch."""
        self.add("ada")
        with self.db.connect() as connection, connection.cursor("named") as cursor:
            cursor.execute("select name from accounts")
            self.assertEqual([("ada",)], cursor.fetchall())

    def test_psycopgs_own_transaction_blocks(self) -> None:
        """They commit and roll back as ever, nested too."""
        with self.db.connect() as connection:
            with connection.transaction():
                connection.execute("insert into accounts values ('ada')")
                with self.assertRaises(ZeroDivisionError), connection.transaction():
                    connection.execute("insert into accounts values ('bob')")
                    _ = 1 / 0
            with connection.transaction(force_rollback=True):
                connection.execute("insert into accounts values ('eve')")
        self.assertEqual(["ada"], self.names())

    def test_schema_changes_are_rolled_back_too(self) -> None:
        """A table that one test drops is there for the next."""
        with type(self).db.isolated("test_one-1") as one, one.engine.begin() as connection:
            connection.execute(text("drop table accounts"))
        self.assertEqual([], self.names())

    def test_connect_takes_factories(self) -> None:
        """Rows as dictionaries, for instance."""
        with self.db.connect(row_factory=dict_row) as connection:
            self.assertEqual({"one": 1}, connection.execute("select 1 as one").fetchone())

    def test_connect_refuses_what_a_shared_session_cannot_do(self) -> None:
        """The error names the argument."""
        with self.assertRaisesRegex(ServiceError, "share one session.*not connect_timeout"):
            self.db.connect(connect_timeout=1)

    def test_read_only_is_for_one_connection(self) -> None:
        """Another connection writes."""
        connection = self.db.connect()
        connection.read_only = True
        with self.assertRaises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("insert into accounts values ('ada')")
        connection.rollback()
        self.add("ada")
        self.assertEqual(["ada"], self.names())

    def test_a_closed_connection_is_closed(self) -> None:
        """It does not reach into the shared session any more."""
        connection = self.db.connect()
        connection.close()
        self.assertTrue(connection.closed)
        with self.assertRaises(psycopg.OperationalError):
            connection.execute("select 1")


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
        looking = self.db.connect()
        looking.execute("select * from accounts")
        self.add("ada")
        with self.assertRaises(psycopg.errors.UndefinedTable):
            looking.execute("select * from nowhere")
        looking.rollback()
        self.assertEqual(["ada"], self.names())

    def test_a_reader_that_writes_later_goes_back_to_there(self) -> None:
        """Its own work is undone, the other's commit is not."""
        session = self.db.connect()
        session.execute("select * from accounts")
        self.add("ada")
        session.execute("insert into accounts values ('bob')")
        session.rollback()
        self.assertEqual(["ada"], self.names())

    def test_a_failed_transaction_does_not_block_the_others(self) -> None:
        """Before it is rolled back, other connections work; it does not."""
        failed = self.db.connect()
        failed.execute("insert into accounts values ('eve')")
        with self.assertRaises(psycopg.errors.UniqueViolation):
            failed.execute("insert into accounts values ('eve')")
        self.add("ada")
        with self.assertRaises(psycopg.errors.InFailedSqlTransaction):
            failed.execute("select 1")
        failed.rollback()
        self.assertEqual((1,), failed.execute("select 1").fetchone())
        failed.commit()
        self.assertEqual(["ada"], self.names())

    def test_commits_in_any_order(self) -> None:
        """Who began first may commit first."""
        first, second = self.db.connect(), self.db.connect()
        first.execute("insert into accounts values ('ada')")
        second.execute("insert into accounts values ('bob')")
        first.commit()
        second.commit()
        self.assertEqual(["ada", "bob"], self.names())

    def test_a_rollback_that_takes_others_along_is_an_error(self) -> None:
        """What cannot be told apart is told, not guessed."""
        first = self.db.connect()
        first.execute("insert into accounts values ('ada')")
        self.add("bob")
        first.rollback()
        with self.assertRaisesRegex(psycopg.NotSupportedError, "isolation='database'"):
            self.names()
        with self.assertRaisesRegex(NotSupportedError, "isolation='database'"):
            self.add("eve")

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

    def test_another_isolation_level(self) -> None:
        """SERIALIZABLE needs a transaction of its own."""
        with (
            self.assertRaisesRegex(
                psycopg.NotSupportedError, "SERIALIZABLE use isolation='database'"
            ),
            self.db.engine.connect() as connection,
        ):
            connection.execution_options(isolation_level="SERIALIZABLE")

    def test_commit_in_sql(self) -> None:
        """A COMMIT that is written out ends the shared transaction: the test is told."""
        with (
            self.assertRaisesRegex(ServiceError, "COMMIT or ROLLBACK in SQL"),
            type(self).db.isolated("test_one-1") as one,
            one.connect() as connection,
        ):
            connection.execute("commit")
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

        def sleep(connection: psycopg.Connection[tuple[object, ...]]) -> None:
            try:
                connection.execute("select pg_sleep(3600)")
            except psycopg.Error as error:
                errors.append(error)

        with type(self).db.isolated("test_one-1") as one:
            connection = one.connect()
            connection.execute("select 1")
            thread = threading.Thread(target=sleep, args=[connection])
            thread.start()
            active = psycopg.pq.TransactionStatus.ACTIVE
            while connection.info.transaction_status != active:
                thread.join(0.01)
        thread.join(10)
        self.assertEqual(1, len(errors))
        with type(self).db.isolated("test_two-2") as two, two.engine.connect() as after:
            self.assertEqual(1, after.scalar(text("select 1")))

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


class AsyncTest(ServicesMixin, unittest.IsolatedAsyncioTestCase):
    """asyncio shares the transaction with synchronous code."""

    db = Postgres(isolation="transaction", migrate=Base.metadata)

    async def test_both_kinds_see_the_same(self) -> None:
        """What a session commits, an asyncio session sees, and the other way round."""
        with self.db.session() as session, session.begin():
            session.add(Account(name="ada"))
        async with AsyncSession(self.db.async_engine) as other, other.begin():
            self.assertEqual(["ada"], list(await other.scalars(select(Account.name))))
            other.add(Account(name="bob"))
        with self.db.connect() as connection:
            self.assertEqual((2,), connection.execute("select count(*) from accounts").fetchone())

    async def test_rollback(self) -> None:
        """A rollback goes back to the last commit; the other test's rows are not here."""
        async with AsyncSession(self.db.async_engine) as session:
            session.add(Account(name="eve"))
            await session.flush()
            await session.rollback()
            self.assertEqual([], list(await session.scalars(select(Account))))
