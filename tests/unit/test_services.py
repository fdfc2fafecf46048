"""Postgres, Redis and Kafka: what can be said about a declaration or a log without a server."""

import unittest
from typing import Any

from orchestrator import Kafka, Postgres, Redis
from orchestrator.environment.warm import may_be_warm
from orchestrator.services import kafka
from orchestrator.services.kafka import start_command
from orchestrator.services.postgres import server as postgres
from orchestrator.settings import Settings

_SHUT_DOWN = "CREATE TABLE\nLOG:  database system is shut down\n"
_READY = "LOG:  database system is ready to accept connections\n"
_THROWN = (
    'run: error: Exception in thread "main" org.apache.kafka.common.config.ConfigException: '
    "Invalid value many for configuration num.partitions: Not a number of type INT\n"
    "\tat org.apache.kafka.common.config.ConfigDef.parseType(ConfigDef.java:776)\n"
)


class Own(Postgres):
    """A service of the user's, which does something when it is ready."""

    def prepare(self) -> None:
        """Whatever it is."""


class ServicesTest(unittest.TestCase):
    """How a server is started, what may have been made before, what its log tells."""

    def test_settings_are_written_as_the_server_reads_them(self) -> None:
        """True is on, or yes; numbers are digits; words are words."""
        command = Postgres(settings={"jit": False, "fsync": True, "work_mem": 64}).server_command()
        self.assertLessEqual({"jit=off", "fsync=on", "work_mem=64"}, {*command})
        command = Redis(settings={"appendonly": True, "save": "900 1", "hz": 50}).server_command()
        for words in ("--appendonly yes", "--save 900 1", "--hz 50"):
            self.assertIn(words, " ".join(command))

    def test_what_is_not_known_of_kafka_is_left_to_the_image(self) -> None:
        """Another command, settings of the storage, variables that the image makes something of."""
        apache = ["/etc/kafka/docker/run"]
        known = start_command(apache, settings={"num.partitions": "3"}, env={"LANG": "C"})
        self.assertEqual("sh", (known or ["the image's"])[0])
        for command, settings, env in (
            (["/my/run"], {}, {}),
            (apache, {"node.id": "2"}, {}),
            (apache, {}, {"KAFKA_LOG4J_ROOT_LOGLEVEL": "WARN"}),
        ):
            with self.subTest(command=command, settings=settings, env=env):
                self.assertIsNone(start_command(command, settings=settings, env=env))

    def test_warm(self) -> None:
        """Not what lives longer or shorter than the class, or has to happen in this process."""
        warm: dict[str, Any] = {"warm": 60.0}
        yes = {"db": Postgres(), "cache": Redis(), "events": Kafka()}
        self.assertTrue(may_be_warm(yes, Settings(**warm)))
        for service in (Redis(scope="test"), Redis(scope="process"), Redis(log_to="a"), Own()):
            with self.subTest(service):
                self.assertFalse(may_be_warm({**yes, "own": service}, Settings(**warm)))
        for setting in ({"warm": 0.0}, {"keep_failed": True}, {"timeline": "page.html"}):
            with self.subTest(setting):
                self.assertFalse(may_be_warm(yes, Settings(**{**warm, **setting})))

    def test_snapshots(self) -> None:
        """Not what is on the disk, started in another way, or prepared by other code."""
        self.assertTrue(Postgres().snapshot_key("sha256:0"))
        options: Any
        for options in (
            {"durable": True},
            {"memory": "1g"},
            {"command": ["postgres"]},
            {"env": {"PGDATA": "/data"}},
        ):
            with self.subTest(options):
                self.assertIsNone(Postgres(**options).snapshot_key("sha256:0"))
        self.assertIsNone(Own().snapshot_key("sha256:0"))

    def test_postgres(self) -> None:
        """The init file that failed, else what it did not start for; not what ended a client."""
        before = "docker-entrypoint.sh: running /docker-entrypoint-initdb.d/000-a.sh\n"
        for told, logs in (
            ("the init file a.sh failed", f"{before}no luck\n"),
            (
                "could not map anonymous shared memory",
                f"{before}{_SHUT_DOWN}FATAL:  could not map anonymous shared memory\n",
            ),
            (
                "",
                f'{_READY}FATAL:  password authentication failed for user "app"\n',
            ),
        ):
            with self.subTest(told):
                self.assertEqual(told, postgres.why_ended(logs, ["a.sh"]))

    def test_kafka(self) -> None:
        """The exception it did not start for; a broker that ran logs its clients' and goes on."""
        self.assertEqual(
            "ConfigException: Invalid value many for configuration num.partitions: Not a number "
            "of type INT",
            kafka.why_ended(_THROWN),
        )
        ran = f"INFO Kafka Server started (kafka.server)\n{_THROWN}"
        self.assertEqual("", kafka.why_ended(ran))

    def test_isolation_is_no_news(self) -> None:
        """Topics that are made and deleted are not; groups, warnings and errors are."""
        topics = (
            "INFO [Broker id=1] Deleting 1 partition(s). (state.change.logger)",
            "INFO Created log for partition a-0 in /tmp/a-0 with properties (kafka.log.LogManager)",
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
