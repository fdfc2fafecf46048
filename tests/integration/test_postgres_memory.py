"""Postgres: data in memory, and what a test committed survives whatever it does to the server."""

from __future__ import annotations

import unittest

import psycopg

from orchestrator import Postgres, ServicesMixin
from orchestrator.errors import ServiceError
from orchestrator.services import faults


def file_system(handle: Postgres) -> str:
    """Where a server's data are."""
    with handle.connect() as connection:
        [folder] = connection.execute("show data_directory").fetchone() or [""]
    return handle.exec(["stat", "-fLc", "%T", folder]).output.strip()


class StorageTestCase(ServicesMixin, unittest.TestCase):
    """Writes to a server, and looks whether it is there."""

    def write(self, handle: Postgres) -> None:
        """Commit a row."""
        with handle.connect(autocommit=True) as connection:
            connection.execute("create table t as select 42 as id")

    def assert_written(self, handle: Postgres) -> None:
        """The row is there, and another can be added."""
        with handle.connect(autocommit=True) as connection:
            self.assertEqual((42,), connection.execute("select id from t").fetchone())
            connection.execute("insert into t values (43)")


class RestartTest(StorageTestCase):
    """Memory is emptied when the container stops; a test does not notice."""

    db = Postgres(isolation="database", databases=["other"], scope="test")

    def test_what_was_committed_survives_restarts(self) -> None:
        """In each database, though connections are open; from the first on it is on the disk."""
        kept = self.db.connect()
        kept.execute("select 1")
        handles = (self.db, self.db.in_database("other"))
        self.assertEqual("tmpfs", file_system(self.db))
        version = self.db.read_file("/orchestrator/data/PG_VERSION")
        self.assertEqual(self.db.server_version.partition(".")[0], version.decode().strip())
        for handle in handles:
            self.write(handle)
        self.db.restart()
        self.db.kill()
        self.db.restart()
        for handle in handles:
            self.assert_written(handle)
        self.assertNotEqual("tmpfs", file_system(self.db))
        with self.db._class.isolated("test_next-1") as following:
            self.assertNotEqual(self.db.database, following.connect().info.dbname)

    def test_what_was_committed_survives_a_crash_while_partitioned(self) -> None:
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
        """And a client hears nothing from a server that is killed, as in production."""
        self.write(self.db)
        connection = self.db.connect()
        with self.db.paused():
            self.db.kill()
        with self.assertRaises(psycopg.OperationalError) as caught:
            connection.execute("select 1")
        self.assertNotIsInstance(caught.exception, psycopg.errors.AdminShutdown)
        self.db.restart()
        self.assert_written(self.db)

    def test_what_cannot_be_saved_is_told(self) -> None:
        """On a full disk the server goes on; when it has ended by itself, nobody can save it."""
        for signal in ("SIGKILL", "SIGINT"):
            self.db.exec(["mkdir", "-p", "/orchestrator/saved/by/somebody/else"])
            with self.assertRaisesRegex(ServiceError, "cannot be copied.*[Pp]ermission denied"):
                self.db.kill(signal)
        self.write(self.db)
        self.assert_written(self.db)
        faults.kill(self.db, signal="SIGINT")
        with self.assertRaisesRegex(ServiceError, r"by itself.*memory.*durable=True"):
            self.db.restart()


class DiskTest(StorageTestCase):
    """Servers whose data are on the disk from the beginning."""

    durable = Postgres(durable=True)
    limited = Postgres(memory="1g")
    own = Postgres(env={"PGDATA": "/var/lib/postgresql/data/own"})

    def test_what_asks_for_the_disk_has_it(self) -> None:
        """Durable data; a limit, which memory would count towards; a folder of one's own."""
        for handle in (self.durable, self.limited, self.own):
            with self.subTest(handle.alias):
                self.assertNotEqual("tmpfs", file_system(handle))

    def test_durable_data_survive_a_restart(self) -> None:
        """As they are."""
        self.write(self.durable)
        self.durable.restart()
        self.assert_written(self.durable)
