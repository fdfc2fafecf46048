"""Postgres: clones in memory, and what a test committed in one survives whatever it does."""

from __future__ import annotations

import unittest

import psycopg
from sqlalchemy import text

from orchestrator import Postgres, ServicesMixin
from orchestrator.errors import ServiceError
from orchestrator.services import faults

_FOLDER = """
    select pg_tablespace_location(dattablespace) from pg_database where datname = current_database()
"""
_MEMORY = "/orchestrator/"


class MemoryTestCase(ServicesMixin, unittest.TestCase):
    """A server with two databases that tests get clones of."""

    db = Postgres(isolation="database", databases=["other"])

    def assert_in_memory(self, handle: Postgres) -> None:
        """A handle's database is in memory."""
        self.assertTrue(self._folder(handle).startswith(_MEMORY))

    def assert_on_disk(self, handle: Postgres) -> None:
        """A handle's database is not in memory."""
        self.assertFalse(self._folder(handle).startswith(_MEMORY))

    def _folder(self, handle: Postgres) -> str:
        with handle.engine.connect() as connection:
            return str(connection.scalar(text(_FOLDER)))

    def write(self, handle: Postgres) -> None:
        """Commit a row."""
        with handle.connect(autocommit=True) as connection:
            connection.execute("create table t as select 42 as id")

    def assert_written(self, handle: Postgres) -> None:
        """The row is there, and another can be added."""
        with handle.connect(autocommit=True) as connection:
            self.assertEqual((42,), connection.execute("select id from t").fetchone())
            connection.execute("insert into t values (43)")


class RestartTest(MemoryTestCase):
    """Memory is emptied when the container stops; a test does not notice."""

    def test_a_clone_is_in_memory(self) -> None:
        """That is where it is made in no time."""
        self.assert_in_memory(self.db)

    def test_what_was_committed_survives_a_restart(self) -> None:
        """In each database of the test, though it has connections open."""
        kept = self.db.connect()
        kept.execute("select 1")
        for handle in (self.db, self.db.in_database("other")):
            self.write(handle)
        self.db.restart()
        for handle in (self.db, self.db.in_database("other")):
            self.assert_written(handle)
            self.assert_on_disk(handle)

    def test_what_was_committed_survives_a_crash(self) -> None:
        """kill() and restart(), as a test of retries does."""
        self.write(self.db)
        self.db.kill()
        self.db.restart()
        self.assert_written(self.db)

    def test_what_was_committed_survives_a_restart_while_partitioned(self) -> None:
        """The way out does not lead over the network."""
        self.write(self.db)
        with self.db.partitioned():
            self.db.kill()
        self.db.restart()
        self.assert_written(self.db)

    def test_what_was_committed_survives_a_signal(self) -> None:
        """One on which the server shuts down in order."""
        self.write(self.db)
        self.db.kill("SIGINT")
        self.db.restart()
        self.assert_written(self.db)

    def test_what_was_committed_survives_a_crash_of_the_frozen(self) -> None:
        """A paused server can be killed, too."""
        self.write(self.db)
        with self.db.paused():
            self.db.kill()
        self.db.restart()
        self.assert_written(self.db)

    def test_a_client_is_cut_off_in_the_middle(self) -> None:
        """It hears nothing from a server that is killed, as in production."""
        connection = self.db.connect()
        connection.execute("select 1")
        self.db.kill()
        with self.assertRaises(psycopg.OperationalError) as caught:
            connection.execute("select 1")
        self.assertNotIsInstance(caught.exception, psycopg.errors.AdminShutdown)
        self.db.restart()

    def test_any_number_of_restarts(self) -> None:
        """Each leaves a folder on the disk, and the next test has another in memory."""
        for number in range(3):
            with type(self).db.isolated(f"test_{number}") as handle:
                self.write(handle)
                self.assert_in_memory(handle)
                handle.restart()
                self.assert_written(handle)

    def test_the_next_clone_is_in_memory_again(self) -> None:
        """After a restart the room is made anew."""
        with type(self).db.isolated("test_one-1") as one:
            one.restart()
        with type(self).db.isolated("test_two-2") as two:
            self.write(two)
            self.assert_in_memory(two)

    def test_other_faults_leave_it_in_memory(self) -> None:
        """A paused or partitioned server goes on as it was."""
        self.write(self.db)
        with self.db.paused():
            pass
        self.assert_written(self.db)
        self.assert_in_memory(self.db)


class EndedByItselfTest(MemoryTestCase):
    """Nobody could save what was in memory."""

    def test_it_is_told(self) -> None:
        """restart() names the database that is gone, and the way to keep it."""
        faults.kill(self.db, signal="SIGINT")
        with self.assertRaisesRegex(ServiceError, r"(?s)test_it_is_told.*memory.*durable=True"):
            self.db.restart()

    def test_the_next_test_has_a_clone(self) -> None:
        """A server that shut down in order is as good as new."""
        with type(self).db.isolated("test_one-1") as one:
            faults.kill(one, signal="SIGINT")
            with self.assertRaises(ServiceError):
                one.restart()
        with type(self).db.isolated("test_two-2") as two:
            self.write(two)
            self.assert_in_memory(two)


class DiskTest(MemoryTestCase):
    """Files in memory would count towards a limit of the container."""

    db = Postgres(isolation="database", memory="1g")

    def test_with_a_limit_clones_are_on_the_disk(self) -> None:
        """So that the limit is the server's."""
        self.assert_on_disk(self.db)


class DurableTest(MemoryTestCase):
    """What must reach the disk cannot be in memory."""

    db = Postgres(isolation="database", durable=True)

    def test_durable_clones_are_on_the_disk(self) -> None:
        """And survive a restart as they are."""
        self.assert_on_disk(self.db)
        self.write(self.db)
        self.db.restart()
        self.assert_written(self.db)
