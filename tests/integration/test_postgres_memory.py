"""Postgres: data in memory, and what a test committed survives whatever it does to the server."""

from __future__ import annotations

import unittest
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy import text

from orchestrator import Postgres, ServicesMixin
from orchestrator.errors import ServiceError
from orchestrator.services import faults

if TYPE_CHECKING:
    import sqlalchemy


def migrate(engine: sqlalchemy.Engine) -> None:
    """What every test finds."""
    with engine.begin() as connection:
        connection.execute(text("create table migrated()"))


class MemoryTestCase(ServicesMixin, unittest.TestCase):
    """A server with two databases that tests get clones of."""

    db = Postgres(migrate=migrate, databases=["other"])

    def assert_in_memory(self) -> None:
        """The data are in memory."""
        self.assertEqual("tmpfs", self._file_system())

    def assert_on_disk(self) -> None:
        """The data are not in memory."""
        self.assertNotEqual("tmpfs", self._file_system())

    def _file_system(self) -> str:
        with self.db.connect() as connection:
            [folder] = connection.execute("show data_directory").fetchone() or [""]
        return self.db.exec(["stat", "-fLc", "%T", folder]).output.strip()

    def write(self, handle: Postgres) -> None:
        """Commit a row."""
        with handle.connect(autocommit=True) as connection:
            connection.execute("create table t as select 42 as id")

    def assert_written(self, handle: Postgres) -> None:
        """The row is there, and another can be added."""
        with handle.connect(autocommit=True) as connection:
            self.assertEqual((42,), connection.execute("select id from t").fetchone())
            connection.execute("insert into t values (43)")


class StartTest(MemoryTestCase):
    """Memory is what it starts with."""

    def test_data_are_in_memory(self) -> None:
        """Where initdb and clones take a fraction of the time; files there are read, too."""
        self.assert_in_memory()
        version = self.db.read_file("/orchestrator/data/PG_VERSION")
        self.assertEqual(self.db.server_version.partition(".")[0], version.decode().strip())

    def test_other_faults_leave_it_there(self) -> None:
        """A paused or partitioned server goes on as it was."""
        self.write(self.db)
        for fault in (self.db.paused(), self.db.partitioned()):
            with fault:
                pass
        self.assert_written(self.db)
        self.assert_in_memory()


class RestartTest(MemoryTestCase):
    """Memory is emptied when the container stops; a test does not notice."""

    db = Postgres(migrate=migrate, databases=["other"], scope="test")

    def test_what_was_committed_survives_a_restart(self) -> None:
        """In each database of the test, though it has connections open."""
        kept = self.db.connect()
        kept.execute("select 1")
        for handle in (self.db, self.db.in_database("other")):
            self.write(handle)
        self.db.restart()
        for handle in (self.db, self.db.in_database("other")):
            self.assert_written(handle)
        self.assert_on_disk()

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

    def test_what_was_committed_survives_the_second_restart(self) -> None:
        """From the first one on the data are on the disk."""
        self.db.restart()
        self.write(self.db)
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

    def test_the_next_test_has_a_clone(self) -> None:
        """What the class made survives as well."""
        with self.db._class.isolated("test_one-1") as one:
            one.restart()
        with self.db._class.isolated("test_two-2") as two, two.connect() as connection:
            connection.execute("select from migrated")

    def test_a_server_that_cannot_be_saved_goes_on(self) -> None:
        """On a full disk, for instance; here, where the copy may not be written."""
        for signal in ("SIGKILL", "SIGINT"):
            self.db.exec(["mkdir", "-p", "/orchestrator/saved/by/somebody/else"])
            with self.assertRaisesRegex(ServiceError, "cannot be copied.*[Pp]ermission denied"):
                self.db.kill(signal)
        self.write(self.db)
        self.assert_written(self.db)

    def test_a_server_that_ended_by_itself_is_told(self) -> None:
        """Nobody could save what was in memory."""
        faults.kill(self.db, signal="SIGINT")
        with self.assertRaisesRegex(ServiceError, r"by itself.*memory.*durable=True"):
            self.db.restart()


class LimitTest(MemoryTestCase):
    """Files in memory would count towards a limit of the container."""

    db = Postgres(memory="1g")

    def test_with_a_limit_data_are_on_the_disk(self) -> None:
        """So that the limit is the server's."""
        self.assert_on_disk()


class DurableTest(MemoryTestCase):
    """What must reach the disk cannot be in memory."""

    db = Postgres(migrate=migrate, durable=True)

    def test_durable_data_are_on_the_disk(self) -> None:
        """And survive a restart as they are."""
        self.assert_on_disk()
        self.write(self.db)
        self.db.restart()
        self.assert_written(self.db)


class OwnFolderTest(MemoryTestCase):
    """PGDATA is the user's to say."""

    db = Postgres(env={"PGDATA": "/var/lib/postgresql/data/own"})

    def test_a_folder_of_ones_own_is_left_alone(self) -> None:
        """It may be a volume's."""
        self.assert_on_disk()
