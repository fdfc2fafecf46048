"""Postgres: what can be said about a declaration, a name and a log without a server."""

from __future__ import annotations

import unittest
from typing import Any

from sqlalchemy import MetaData

from orchestrator import Postgres
from orchestrator.errors import DeclarationError
from orchestrator.services.postgres.isolation import name_of
from orchestrator.services.postgres.server import why_ended

BAD: list[dict[str, Any]] = [
    {"isolation": "rollback"},
    {"settings": ["fsync"]},
    {"settings": {"work mem": "1MB"}},
    {"settings": {"work_mem": None}},
    {"settings": {"a; drop": "1"}},
    {"settings": {"Port": 1234}},
    {"settings": {"listen_addresses": "localhost"}},
    {"init": "schema.sql"},
    {"init": [b"schema.sql"]},
    {"init": ["schema.txt"]},
    {"migrate": "alembic.ini"},
    {"databases": "reports"},
    {"databases": ["test"]},
    {"databases": ["a", "a"]},
    {"databases": [""]},
    {"databases": {"reports": "alembic.ini"}},
    {"roles": "app"},
    {"roles": [1]},
    {"roles": ["x" * 64]},
    {"extensions": "pg_trgm"},
    {"durable": "no"},
    {"database": ""},
    {"database": "x" * 64},
    {"username": "a\0b"},
    {"password": ""},
    {"password": "two\nlines"},
]
GOOD: list[dict[str, Any]] = [
    {"settings": {"work_mem": "64MB", "max_connections": 20, "jit": False, "my.setting": 0.5}},
    {"databases": {"reports": MetaData(), "audit": None}, "roles": ["app"], "extensions": ["x"]},
    {"migrate": MetaData()},
    {"init": ("a.sql", "b.sql.gz", "c.sh")},
]


class OptionsTest(unittest.TestCase):
    """Every option's bad value is a DeclarationError at class creation."""

    def test_a_bad_value_names_the_option(self) -> None:
        """The message says which option, and what was expected."""
        for options in BAD:
            with self.subTest(options), self.assertRaises(DeclarationError) as raised:
                Postgres(**options)
            self.assertIn([*options][-1], str(raised.exception))

    def test_a_good_value_is_taken(self) -> None:
        """What the docstring shows can be declared."""
        for options in GOOD:
            with self.subTest(options):
                Postgres(**options)

    def test_settings_are_written_as_the_server_reads_them(self) -> None:
        """True is on, numbers are digits."""
        command = Postgres(settings={"jit": False, "fsync": True, "work_mem": 64}).server_command()
        self.assertIn("jit=off", command)
        self.assertIn("fsync=on", command)
        self.assertIn("work_mem=64", command)


class NameTest(unittest.TestCase):
    """A test's schema or database is recognisable, and a plain name."""

    def test_names(self) -> None:
        """Lower case, no character that needs quoting, no longer than the server takes."""
        self.assertEqual("test_order_a1b2c3", name_of("test_order-a1b2c3"))
        self.assertEqual("test_createorder_1", name_of("test_createOrder-1"))
        self.assertEqual("test_pg_order_1", name_of("pg_order-1"))
        self.assertRegex(name_of("x" * 80 + "-a1b2"), "^test_x{48}_a1b2$")


class WhyEndedTest(unittest.TestCase):
    """The log of a server that ended tells why."""

    def test_the_official_images_words_are_understood(self) -> None:
        """It says its own path before."""
        logs = "/usr/local/bin/docker-entrypoint.sh: running /docker-entrypoint-initdb.d/000-a.sh\n"
        told = why_ended(logs + "no luck\n", ["a.sh"])
        self.assertEqual("the init file a.sh failed", told)

    def test_init_files_that_went_well_are_not_blamed(self) -> None:
        """What ended the server later is told instead."""
        logs = (
            "docker-entrypoint.sh: running /docker-entrypoint-initdb.d/000-a.sql\nCREATE TABLE\n"
            "LOG:  database system is shut down\nFATAL:  could not map anonymous shared memory\n"
        )
        self.assertEqual("could not map anonymous shared memory", why_ended(logs, ["a.sql"]))

    def test_what_ended_a_connection_is_no_reason(self) -> None:
        """A server that is killed while it serves has said nothing about it."""
        logs = (
            "FATAL:  the database system is starting up\n"
            "LOG:  database system is ready to accept connections\n"
            'FATAL:  password authentication failed for user "app"\n'
            "FATAL:  terminating connection due to administrator command\n"
        )
        self.assertEqual("", why_ended(logs, []))
