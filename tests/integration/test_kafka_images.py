"""The images of Kafka that are not the default one, and Redpanda: each does all that a test asks.

On a machine that reaches no registry they are test images that enforce the documented contracts
(ci/images/README.md): cp-kafka has the broker of its own version, Kafka 3.5; the two others have
the broker of the default image behind the other's way to be started.
"""

import os
import unittest
from unittest import mock

import confluent_kafka

from orchestrator import Kafka, Redpanda, ServicesMixin
from orchestrator.errors import DeclarationError
from orchestrator.images import find_lock
from orchestrator.settings import Settings


def image_of(entry: str, reference: str) -> str:
    """An entry of the lock file in force, else the official image, where a registry has it."""
    return entry if entry in find_lock(Settings.from_environment()).entries else reference


class ImagesTest(ServicesMixin, unittest.TestCase):
    """One and the same test passes with each of them, with what security it offers, over IPv6."""

    # SCRAM came to KRaft with this version of Kafka.
    confluent = Kafka(
        image=image_of("cp-kafka", "docker.io/confluentinc/cp-kafka:7.5.3"),
        security="sasl_plaintext",
    )
    # Passwords come from a file that an option of its command line names.
    native = Kafka(
        image=image_of("kafka-native", "docker.io/apache/kafka-native:4.1.1"),
        security="sasl_ssl",
        mechanism="PLAIN",
    )
    panda = Redpanda()
    safe_panda = Redpanda(security="sasl_ssl")

    @classmethod
    def setUpClass(cls) -> None:
        """Official images that no lock file has may run; ports are published on another address."""
        environ = {"ORCHESTRATOR_UNLOCKED": "allow", "ORCHESTRATOR_HOST": "::1"}
        cls.enterClassContext(mock.patch.dict(os.environ, environ))
        super().setUpClass()

    def test_1_records_groups_and_transactions(self) -> None:
        """By the service's own clients, and by another library's."""
        for events in (self.confluent, self.native, self.panda, self.safe_panda):
            with self.subTest(events.alias):
                self.check_records(events)

    def check_records(self, events: Kafka | Redpanda) -> None:
        """All that a test does with a broker."""
        self.assertEqual(f"[::1]:{events.port}", events.bootstrap)
        topic = events.topic("orders", partitions=2)
        with events.producer(transactional_id=f"{events.prefix}writer") as producer:
            producer.init_transactions()
            producer.begin_transaction()
            producer.send(topic, key=b"ada", value=b"1")
            producer.commit_transaction()
        self.assertEqual(b"1", events.consume(topic, timeout=20)[0].value)
        with events.consumer(topic) as consumer:
            self.assertEqual(b"1", next(consumer).value)
            events.wait_for_group(events.group, topic, timeout=20)
            consumer.commit()
        confluent = confluent_kafka.Producer({**events.confluent_settings, "log_level": 0})
        confluent.produce(f"{events.prefix}by-code", b"2")
        self.assertEqual(0, confluent.flush(20))
        self.assertEqual(b"2", events.consume(f"{events.prefix}by-code")[0].value)

    def test_2_what_another_test_made_is_gone(self) -> None:
        """And each tells what it is."""
        for events, version in (
            (self.confluent, r"^Kafka 3\.5"),
            (self.native, r"^Kafka 4"),
            (self.panda, "^Redpanda v"),
            (self.safe_panda, "^Redpanda v"),
        ):
            with self.subTest(events.alias):
                topics = [name for name in events.admin.list_topics() if name[0] != "_"]
                self.assertEqual([], topics)
                self.assertEqual([], events.admin.list_groups())
                info = events.info()
                self.assertRegex(str(info["server"]), version)
                self.assertTrue(info["cluster"])


class DeclaredTest(unittest.TestCase):
    """Settings that cannot be are refused where they are declared."""

    def test_settings(self) -> None:
        """Redpanda's are cluster properties, with values that JSON has; Kafka's are text."""
        Redpanda(settings={"log_segment_ms": 60_000, "superusers": ["ada"], "enable_sasl": False})
        bad: tuple[tuple[type[Kafka | Redpanda], object, str], ...] = (
            (Redpanda, "log_segment_ms", "cluster properties"),
            (Redpanda, {"log.segment.ms": 1}, "cluster properties"),
            (Redpanda, {"a": [1]}, "cluster properties"),
            (Kafka, {"num.partitions": 3}, "expected text, such as '3'"),
            (Kafka, {"Num.Partitions": "3"}, "'Num.Partitions'"),
            (Kafka, {"listeners": "X://:1"}, "cannot set 'listeners'"),
        )
        for kind, settings, expected in bad:
            with (
                self.subTest(kind, settings=settings),
                self.assertRaisesRegex(DeclarationError, rf"settings.*{expected}"),
            ):
                kind(settings=settings)  # type: ignore[arg-type]
