"""Postgres, Redis and Kafka: what can be said about a declaration or a log without a server."""

from __future__ import annotations

import unittest
from typing import Any

from sqlalchemy import MetaData

from orchestrator import Kafka, Postgres, Redis, Service
from orchestrator.errors import DeclarationError
from orchestrator.services import kafka
from orchestrator.services.kafka import start_command
from orchestrator.services.postgres import server as postgres
from orchestrator.services.postgres.isolation import name_of

BAD: dict[type[Service], list[dict[str, Any]]] = {
    Postgres: [
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
    ],
    Redis: [
        {"maxmemory": "some"},
        {"maxmemory": -1},
        {"maxmemory": True},
        {"maxmemory_policy": "allkeys"},
        {"isolation": "schema"},
        {"settings": ["save"]},
        {"settings": {"save ''": ""}},
        {"settings": {"save": None}},
        {"settings": {"save": "'unfinished"}},
        {"settings": {"requirepass": "x"}},
        {"settings": {"maxmemory": "2mb"}},
        {"settings": {"user": "x"}},
        {"settings": {"daemonize": True}},
        {"settings": {"rename-command": "FLUSHALL ''"}},
        {"settings": {"rename-command": "eval EVAL2"}, "isolation": "prefix"},
        {"users": ["app"]},
        {"users": {"the app": "+@all"}},
        {"users": {"app": ["+@all"]}},
        {"users": {"default": "+@all"}},
        {"users": {"app": "~* nopass"}},
        {"users": {"app": "~* >hush"}},
        {"tls": "yes"},
        {"password": ""},
        {"password": "a\0b"},
    ],
}
GOOD: dict[type[Service], list[dict[str, Any]]] = {
    Postgres: [
        {"settings": {"work_mem": "64MB", "max_connections": 20, "jit": False, "my.setting": 0.5}},
        {
            "databases": {"reports": MetaData(), "audit": None},
            "roles": ["app"],
            "extensions": ["x"],
        },
        {"migrate": MetaData()},
        {"init": ("a.sql", "b.sql.gz", "c.sh")},
    ],
    Redis: [
        {"maxmemory": "2mb", "maxmemory_policy": "allkeys-lru"},
        {"maxmemory": 1 << 20},
        {"settings": {"appendonly": True, "hz": 50, "client-output-buffer-limit": "normal 0 0 0"}},
        {"users": {"app": "~app:* +@all -@dangerous", "nobody": ""}},
        {"settings": {"rename-command": "FLUSHALL ''"}, "isolation": "none"},
        {"settings": {"rename-command": "KEYS ''"}},
    ],
}
_THROWN = (
    'run: error: Exception in thread "main" org.apache.kafka.common.config.ConfigException: '
    "Invalid value many for configuration num.partitions: Not a number of type INT\n"
    "\tat org.apache.kafka.common.config.ConfigDef.parseType(ConfigDef.java:776)\n"
)


class OptionsTest(unittest.TestCase):
    """Every option's bad value is a DeclarationError at class creation."""

    def test_a_bad_value_names_the_option(self) -> None:
        """The message says which option, and what was expected; no secret is shown."""
        for service, bad in BAD.items():
            for options in bad:
                with self.subTest(options), self.assertRaises(DeclarationError) as raised:
                    service(**options)
                self.assertIn(next(iter(options)), str(raised.exception))
                self.assertNotIn("hush", str(raised.exception))

    def test_a_good_value_is_taken(self) -> None:
        """What the docstring shows can be declared."""
        for service, good in GOOD.items():
            for options in good:
                with self.subTest(options):
                    service(**options)

    def test_settings_are_written_as_the_server_reads_them(self) -> None:
        """True is on, or yes; numbers are digits; words are words."""
        command = Postgres(settings={"jit": False, "fsync": True, "work_mem": 64}).server_command()
        self.assertLessEqual({"jit=off", "fsync=on", "work_mem=64"}, {*command})
        settings: dict[str, str | float] = {
            "appendonly": True,
            "save": "900 1",
            "oom-score-adj": "",
        }
        command = Redis(settings=settings).server_command()
        for words in ("--appendonly yes", "--save 900 1"):
            self.assertIn(words, " ".join(command))
        self.assertEqual("", command[command.index("--oom-score-adj") + 1])


class NameTest(unittest.TestCase):
    """A test's schema or database is recognisable, and a plain name."""

    def test_names(self) -> None:
        """Lower case, no character that needs quoting, no longer than the server takes."""
        self.assertEqual("test_order_a1b2c3", name_of("test_order-a1b2c3"))
        self.assertEqual("test_createorder_1", name_of("test_createOrder-1"))
        self.assertEqual("test_pg_order_1", name_of("pg_order-1"))
        self.assertRegex(name_of("x" * 80 + "-a1b2"), "^test_x{48}_a1b2$")


class StartTest(unittest.TestCase):
    """Whether a broker is started without the JVM that formats its storage."""

    def test_what_is_not_known_is_left_to_the_image(self) -> None:
        """Another command, settings of the storage, variables that the image makes something of."""
        apache, confluent = ["/etc/kafka/docker/run"], ["/etc/confluent/docker/run"]
        for known in (
            start_command(apache, settings={"num.partitions": "3"}, env={"KAFKA_OPTS": "-Da=b"}),
            start_command(confluent, settings={}, env={"LANG": "C"}),
        ):
            self.assertEqual("sh", (known or ["the image's"])[0])
        for command, settings, env in (
            (["/my/run"], {}, {}),
            ([], {}, {}),
            (apache, {"node.id": "2"}, {}),
            (apache, {}, {"KAFKA_LOG4J_ROOT_LOGLEVEL": "WARN"}),
        ):
            with self.subTest(command=command, settings=settings, env=env):
                self.assertIsNone(start_command(command, settings=settings, env=env))


class WhyEndedTest(unittest.TestCase):
    """The log of a server that ended tells why."""

    def test_the_official_images_words_are_understood(self) -> None:
        """It says its own path before."""
        logs = "/usr/local/bin/docker-entrypoint.sh: running /docker-entrypoint-initdb.d/000-a.sh\n"
        told = postgres.why_ended(logs + "no luck\n", ["a.sh"])
        self.assertEqual("the init file a.sh failed", told)

    def test_init_files_that_went_well_are_not_blamed(self) -> None:
        """What ended the server later is told instead."""
        logs = (
            "docker-entrypoint.sh: running /docker-entrypoint-initdb.d/000-a.sql\nCREATE TABLE\n"
            "LOG:  database system is shut down\nFATAL:  could not map anonymous shared memory\n"
        )
        self.assertEqual(
            "could not map anonymous shared memory", postgres.why_ended(logs, ["a.sql"])
        )

    def test_what_ended_a_connection_is_no_reason(self) -> None:
        """A server that is killed while it serves has said nothing about it."""
        logs = (
            "FATAL:  the database system is starting up\n"
            "LOG:  database system is ready to accept connections\n"
            'FATAL:  password authentication failed for user "app"\n'
            "FATAL:  terminating connection due to administrator command\n"
        )
        self.assertEqual("", postgres.why_ended(logs, []))

    def test_the_exception_it_did_not_start_for_is_told(self) -> None:
        """A setting that cannot be read, for one."""
        self.assertEqual(
            "ConfigException: Invalid value many for configuration num.partitions: Not a number "
            "of type INT",
            kafka.why_ended(_THROWN),
        )

    def test_an_exception_of_a_broker_that_ran_is_no_reason(self) -> None:
        """It logs what goes wrong with a client, and goes on."""
        self.assertEqual(
            "", kafka.why_ended(f"INFO Kafka Server started (kafka.server)\n{_THROWN}")
        )


class NewsTest(unittest.TestCase):
    """What of a broker's log a failed test is told."""

    def test_isolation_is_no_news(self) -> None:
        """Topics that are made and deleted are not; groups, warnings and errors are."""
        topics = (
            "INFO [Broker id=1] Deleting 1 partition(s). (state.change.logger)",
            "INFO Created log for partition a-0 in /tmp/a-0 with properties (kafka.log.LogManager)",
            (
                "INFO [QuorumController id=1] Replayed RemoveTopicRecord for topic a with ID 4QFx. "
                "(org.apache.kafka.controller.ReplicationControlManager)"
            ),
            (
                "INFO [LogLoader partition=a-0, dir=/tmp] Loading producer state till offset 0 "
                "(org.apache.kafka.storage.internals.log.UnifiedLog)"
            ),
        )
        news = (
            "WARN [Partition a-0 broker=1] Shrinking ISR from 1,2 to 1. (kafka.cluster.Partition)",
            (
                "INFO [GroupCoordinator id=1 partition=0] Stabilized group g "
                "(org.apache.kafka.coordinator.group.GroupMetadataManager)"
            ),
            "java.io.IOException: No space left on device",
        )
        lines = [f"[2026-11-27 08:36:10,587] {line}" for line in (*topics, *news)]
        self.assertEqual(lines[-3:], list(filter(Kafka().is_news, lines)))
