"""Kafka: what can be said about a start and a log without a broker."""

from __future__ import annotations

import unittest

from orchestrator import Kafka
from orchestrator.services.kafka import start_command, why_ended

_THROWN = (
    'run: error: Exception in thread "main" org.apache.kafka.common.config.ConfigException: '
    "Invalid value many for configuration num.partitions: Not a number of type INT\n"
    "\tat org.apache.kafka.common.config.ConfigDef.parseType(ConfigDef.java:776)\n"
)


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
    """The log of a broker that ended tells why."""

    def test_the_exception_it_did_not_start_for_is_told(self) -> None:
        """A setting that cannot be read, for one."""
        self.assertEqual(
            "ConfigException: Invalid value many for configuration num.partitions: Not a number "
            "of type INT",
            why_ended(_THROWN),
        )

    def test_an_exception_of_a_broker_that_ran_is_no_reason(self) -> None:
        """It logs what goes wrong with a client, and goes on."""
        self.assertEqual("", why_ended(f"INFO Kafka Server started (kafka.server)\n{_THROWN}"))


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
