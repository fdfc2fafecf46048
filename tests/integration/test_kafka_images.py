"""The images of Kafka that are not the default one, and Redpanda.

On a machine that reaches no registry they are test images that enforce the documented contracts
(ci/images/README.md): cp-kafka has the broker of its own version, Kafka 3.5; the two others have
the broker of the default image behind the other's way to be started.
"""

from __future__ import annotations

import os
import unittest
from typing import TYPE_CHECKING
from unittest import mock

import confluent_kafka

from orchestrator import Kafka, Redpanda, ServicesMixin
from orchestrator.errors import DeclarationError
from tests.support.classes import LeakCheckedTestCase
from tests.support.kafka import image_of

if TYPE_CHECKING:
    from orchestrator.services.kafka.broker import Broker


def class_with(broker: Broker, *, version: str) -> type[unittest.TestCase]:
    """A class that uses a broker for all that a test does with one."""

    class Uses(ServicesMixin, unittest.TestCase):
        events = broker

        def test_records_groups_and_transactions(self) -> None:
            topic = self.events.topic("orders", partitions=2)
            name = f"{self.events.prefix}writer"
            with self.events.producer(transactional_id=name) as producer:
                producer.init_transactions()
                producer.begin_transaction()
                producer.send(topic, key=b"ada", value=b"1")
                producer.commit_transaction()
            self.assertEqual(b"1", self.events.consume(topic, timeout=20)[0].value)
            with self.events.consumer(topic) as consumer:
                self.assertEqual(b"1", next(consumer).value)
                self.events.wait_for_group(self.events.group, topic, timeout=20)
                consumer.commit()
            quiet = {"log_level": 0}
            producer = confluent_kafka.Producer({**self.events.confluent_settings, **quiet})
            producer.produce(f"{self.events.prefix}by-code", b"2")
            self.assertEqual(0, producer.flush(20))
            self.assertEqual(b"2", self.events.consume(f"{self.events.prefix}by-code")[0].value)

        def test_what_another_test_made_is_gone(self) -> None:
            topics = [name for name in self.events.admin.list_topics() if name[0] != "_"]
            self.assertEqual([], topics)
            self.assertEqual([], self.events.admin.list_groups())

        def test_info(self) -> None:
            info = self.events.info()
            self.assertRegex(str(info["server"]), version)
            self.assertTrue(info["cluster"])

    return Uses


class ImagesTest(LeakCheckedTestCase):
    """One and the same test passes with each of them."""

    def setUp(self) -> None:
        """Official images that no lock file has may run."""
        super().setUp()
        self.enterContext(mock.patch.dict(os.environ, ORCHESTRATOR_UNLOCKED="allow"))
        self.cp_kafka = image_of("cp-kafka", "docker.io/confluentinc/cp-kafka:7.5.3")
        self.native = image_of("kafka-native", "docker.io/apache/kafka-native:4.1.1")

    def check(self, broker: Broker, *, version: str) -> None:
        """All that a test does with a broker."""
        self.assert_passes(class_with(broker, version=version))

    def test_cp_kafka(self) -> None:
        """confluentinc/cp-kafka, as many code bases have it."""
        self.check(Kafka(image=self.cp_kafka), version=r"^Kafka 3\.5")

    def test_cp_kafka_with_passwords_over_tls(self) -> None:
        """SCRAM came to KRaft with its version of Kafka."""
        self.check(Kafka(image=self.cp_kafka, security="sasl_ssl"), version=r"^Kafka 3\.5")

    def test_kafka_native_with_passwords(self) -> None:
        """Passwords come from a file that an option of its command line names."""
        broker = Kafka(image=self.native, security="sasl_plaintext", mechanism="PLAIN")
        self.check(broker, version=r"^Kafka 4")

    def test_redpanda(self) -> None:
        """Kafka's protocol by another server."""
        self.check(Redpanda(), version="^Redpanda v")

    def test_redpanda_with_passwords(self) -> None:
        """SCRAM, and an administrator from the first start on."""
        self.check(Redpanda(security="sasl_plaintext"), version="^Redpanda v")

    def test_redpanda_over_tls(self) -> None:
        """The certificates of clients are not asked for."""
        self.check(Redpanda(security="ssl"), version="^Redpanda v")


class RedpandaDeclaredTest(unittest.TestCase):
    """What cannot be is refused where it is declared."""

    def test_settings_are_cluster_properties(self) -> None:
        """Names of properties, to values that JSON has."""
        Redpanda(settings={"log_segment_ms": 60_000, "superusers": ["ada"], "enable_sasl": False})
        for settings in (
            "log_segment_ms",
            {"log.segment.ms": 1},
            {"a": None},
            {"a": [1]},
            {1: "a"},
        ):
            with (
                self.subTest(settings),
                self.assertRaisesRegex(DeclarationError, r"Redpanda\(settings="),
            ):
                Redpanda(settings=settings)  # type: ignore[arg-type]

    def test_options_of_kafka_are_checked_alike(self) -> None:
        """The same words."""
        with self.assertRaisesRegex(DeclarationError, r"Redpanda\(security='tls'\)"):
            Redpanda(security="tls")  # type: ignore[arg-type]


if __name__ == "__main__":
    unittest.main()
