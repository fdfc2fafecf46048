"""Postgres: first starts, what goes wrong in them, and what a test does to its server."""

import gzip
import tempfile
import unittest
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import text

from orchestrator import Postgres, ServicesMixin
from orchestrator.errors import ServiceError
from orchestrator.services import faults
from tests.support.classes import LeakCheckedTestCase

_READY = "database system is ready to accept connections"
_HOSTS = "select auth_method from pg_hba_file_rules where address = 'all'"
_ABOUT = """
    select current_user, current_database(), d.datcollate, d.datdba::regrole::text,
        pg_encoding_to_char(d.encoding), rolpassword like 'SCRAM%%'
    from pg_database d, pg_authid where datname = current_database() and rolname = current_user
"""
AWKWARD = """it's "100%" of p@ss: /\\w?ö€rd#&$HOME `x` ;--"""


class BrokenTest(LeakCheckedTestCase):
    """Classes that cannot start, or fail: what is wrong is told, and passwords are not."""

    def assert_told(self, *expected: str, **options: Any) -> str:
        """Expect one error with these parts from a class whose server has these options."""
        return self.assert_cannot_start(*expected, db=Postgres(**options))

    def test_what_init_files_do_wrong_is_told(self) -> None:
        """With file, line and error, though a compressed one has no name; a script's last words."""
        with tempfile.TemporaryDirectory() as name:
            good, sql, script = (Path(name, file) for file in ("good.sql", "bad.sql.gz", "bad.sh"))
            good.write_text("create table a(id int);\n")
            sql.write_bytes(gzip.compress(b"select 1;\nselect nonsense;\n"))
            script.write_text("#!/bin/bash\necho no such luck >&2\nexit 3\n")
            line = ("bad.sql.gz", "line 2", 'column "nonsense" does not exist')
            self.assert_told("db", "init file", *line, init=[good, sql])
            self.assert_told("init file", "bad.sh", "no such luck", "exit code 3", init=[script])
        absent = str(Path(name, "absent.sql"))
        self.assert_told("DeclarationError", "init", absent, init=[absent])

    def test_an_unknown_setting_is_told_with_the_servers_words(self) -> None:
        """A setting that the server does not know ends it."""
        self.assert_told('unrecognized configuration parameter "fsnyc"', settings={"fsnyc": "off"})

    def test_an_unknown_extension_is_told_with_those_that_there_are(self) -> None:
        """The message lists them."""
        told = "'postgiss' cannot be created", "is not available. The image has", "pg_trgm"
        self.assert_told(*told, extensions=["postgiss"])

    def test_an_awkward_password_works_everywhere_and_is_shown_nowhere(self) -> None:
        """Quotes, spaces, %, unicode and shell characters are nothing special."""

        class Awkward(ServicesMixin, unittest.TestCase):
            db = Postgres(password=AWKWARD, username="us er", database="my db's")

            def test_it(self) -> None:
                with self.db.engine.connect() as connection:
                    self.assertEqual("us er", connection.scalar(text("select current_user")))
                with self.db.connect() as connection:
                    self.assertEqual(
                        ("my db's",), connection.execute("select current_database()").fetchone()
                    )
                    connection.execute(
                        "do $$ begin raise warning 'it says %', $q$" + AWKWARD + "$q$; end $$"
                    )
                result = self.db.exec(["psql", "-tc", "select 41 + 1", self.db.internal_url])
                self.assertIn("42", result.output)
                self.fail("it came to its end")

        shown = self.assert_error(Awkward, "came to its end", "it says ***", "PostgreSQL 1")
        self.assertNotIn(AWKWARD, shown)


def file_system(handle: Postgres) -> str:
    """Where a server's data are."""
    with handle.connect() as connection:
        [folder] = connection.execute("show data_directory").fetchone() or [""]
    return handle.exec(["stat", "-fLc", "%T", folder]).output.strip()


class StartTest(ServicesMixin, unittest.TestCase):
    """Servers that are started in one way and in the other."""

    plain = Postgres(isolation="none")
    on_disk = Postgres(memory="512m", database="postgres", isolation="none")
    odd = Postgres(
        database='it\'s "odd"',
        username="The chief",
        password="it's \\ 'odd'",
        env={"POSTGRES_INITDB_ARGS": "--locale='C' --encoding=SQL_ASCII"},
        isolation="none",
    )
    by_image = Postgres(
        env={"POSTGRES_HOST_AUTH_METHOD": "scram-sha-256"}, isolation="none", durable=True
    )
    commanded = Postgres(command=["postgres", "-c", "fsync=off"], isolation="none")

    def test_a_start_is_one_where_the_image_has_nothing_more_to_do(self) -> None:
        """What the entry point alone understands is left to it; it runs first: others restart."""
        services = (self.plain, self.on_disk, self.odd, self.by_image, self.commanded)
        started = [it.logs().count(_READY) for it in services]
        self.assertEqual([1, 1, 1, 2, 2], started)
        for on_disk in (self.on_disk, self.by_image):  # a limit would count what is in memory
            self.assertNotEqual("tmpfs", file_system(on_disk))

    def test_is_the_same_in_both_ways(self) -> None:
        """Owner, locale, encoding, kind of password, and whom it lets in how."""
        told = [it.connect().execute(_ABOUT).fetchall() for it in (self.plain, self.by_image)]
        self.assertEqual(told[0], told[1])
        for it in (self.plain, self.by_image, self.on_disk, self.odd):
            self.assertEqual([("scram-sha-256",)], it.connect().execute(_HOSTS).fetchall())

    def test_is_what_was_declared(self) -> None:
        """Names and a password of any spelling, arguments of initdb, data on the disk."""
        told = self.odd.connect().execute(_ABOUT).fetchall()
        name = 'it\'s "odd"'
        self.assertEqual([("The chief", name, "C", '"The chief"', "SQL_ASCII", True)], told)
        [[user, database, *_]] = self.on_disk.connect().execute(_ABOUT).fetchall()
        self.assertEqual(("test", "postgres"), (user, database))

    def test_outlives_its_end(self) -> None:
        """A server on the disk, and one in memory, start again with what was committed."""
        for it in (self.on_disk, self.plain):
            it.connect(autocommit=True).execute("create table kept ()")
            it.restart()
            it.connect().execute("select from kept")


class RestartTest(ServicesMixin, unittest.TestCase):
    """Memory is emptied when the container stops; a test does not notice."""

    db = Postgres(isolation="database", databases=["other"], scope="test")

    def write(self, handle: Postgres) -> None:
        """Commit a row."""
        with handle.connect(autocommit=True) as connection:
            connection.execute("create table t as select 42 as id")

    def assert_written(self, handle: Postgres) -> None:
        """The row is there, and another can be added."""
        with handle.connect(autocommit=True) as connection:
            self.assertEqual((42,), connection.execute("select id from t").fetchone())
            connection.execute("insert into t values (43)")

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
