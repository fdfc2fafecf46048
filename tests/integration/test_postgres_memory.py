"""Postgres: clones in memory, and what a test committed in one survives whatever it does."""

from __future__ import annotations

import unittest

from sqlalchemy import text

from orchestrator import Postgres, ServicesMixin

_ROOM = """
    select coalesce(spcname, '?') from pg_database
    join pg_tablespace space on space.oid = dattablespace where datname = current_database()
"""


class MemoryTestCase(ServicesMixin, unittest.TestCase):
    """A server with two databases that tests get clones of."""

    db = Postgres(isolation="database", databases=["other"])

    def room(self, handle: Postgres) -> object:
        """Where a handle's database is."""
        with handle.engine.connect() as connection:
            return connection.scalar(text(_ROOM))

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
        self.assertEqual("orchestrator_memory", self.room(self.db))

    def test_what_was_committed_survives_a_restart(self) -> None:
        """In each database of the test, though it has connections open."""
        kept = self.db.connect()
        kept.execute("select 1")
        for handle in (self.db, self.db.in_database("other")):
            self.write(handle)
        self.db.restart()
        for handle in (self.db, self.db.in_database("other")):
            self.assert_written(handle)
            self.assertEqual("pg_default", self.room(handle))

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

    def test_the_next_clone_is_in_memory_again(self) -> None:
        """After a restart the room is made anew."""
        with type(self).db.isolated("test_one-1") as one:
            one.restart()
        with type(self).db.isolated("test_two-2") as two:
            self.write(two)
            self.assertEqual("orchestrator_memory", self.room(two))

    def test_other_faults_leave_it_in_memory(self) -> None:
        """A paused or partitioned server goes on as it was."""
        self.write(self.db)
        with self.db.paused():
            pass
        self.assert_written(self.db)
        self.assertEqual("orchestrator_memory", self.room(self.db))


class DiskTest(MemoryTestCase):
    """Files in memory would count towards a limit of the container."""

    db = Postgres(isolation="database", memory="1g")

    def test_with_a_limit_clones_are_on_the_disk(self) -> None:
        """So that the limit is the server's."""
        self.assertEqual("pg_default", self.room(self.db))


class DurableTest(MemoryTestCase):
    """What must reach the disk cannot be in memory."""

    db = Postgres(isolation="database", durable=True)

    def test_durable_clones_are_on_the_disk(self) -> None:
        """And survive a restart as they are."""
        self.assertEqual("pg_default", self.room(self.db))
        self.write(self.db)
        self.db.restart()
        self.assert_written(self.db)
