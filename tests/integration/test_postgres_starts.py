"""Postgres: a first start, by the image's entry point or without the server that it stops again."""

import unittest

from orchestrator import Postgres, ServicesMixin

_READY = "database system is ready to accept connections"
_HOSTS = "select auth_method from pg_hba_file_rules where address = 'all'"
_ABOUT = """
    select current_user, current_database(), d.datcollate, d.datdba::regrole::text,
        pg_encoding_to_char(d.encoding), rolpassword like 'SCRAM%%'
    from pg_database d, pg_authid where datname = current_database() and rolname = current_user
"""


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
    by_image = Postgres(env={"POSTGRES_HOST_AUTH_METHOD": "scram-sha-256"}, isolation="none")
    commanded = Postgres(command=["postgres", "-c", "fsync=off"], isolation="none")

    def test_a_start_is_one_where_the_image_has_nothing_more_to_do(self) -> None:
        """What the entry point alone understands is left to it; it runs first: others restart."""
        services = (self.plain, self.on_disk, self.odd, self.by_image, self.commanded)
        started = [it.logs().count(_READY) for it in services]
        self.assertEqual([1, 1, 1, 2, 2], started)

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
