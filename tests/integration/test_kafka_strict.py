"""Kafka(strict=True): a test that touches what is not its own fails, and both are named."""

from __future__ import annotations

import contextlib
import unittest
from typing import TYPE_CHECKING, ClassVar

from kafka.errors import KafkaError

from orchestrator import Kafka, ServicesMixin
from tests.support.classes import LeakCheckedTestCase, problems, run_class

if TYPE_CHECKING:
    from orchestrator.services.kafka_security import Mechanism, Security


def strict_class(security: Security, mechanism: Mechanism) -> type[unittest.TestCase]:
    """A class whose first test keeps to itself, and whose others do not."""

    class Strict(ServicesMixin, unittest.TestCase):
        events = Kafka(strict=True, security=security, mechanism=mechanism)
        first: ClassVar[str]
        shared: ClassVar[str]

        @classmethod
        def setUpClass(cls) -> None:
            super().setUpClass()
            cls.shared = cls.events.topic("shared")

        def test_1_keeps_to_itself(self) -> None:
            type(self).first = topic = self.events.topic("orders")
            transactional = f"{self.events.prefix}writer"
            with self.events.producer(transactional_id=transactional) as producer:
                producer.init_transactions()
                producer.begin_transaction()
                producer.send(topic, b"1")
                producer.send(f"{self.events.prefix}made-by-code", b"1")
                producer.commit_transaction()
            self.events.consume(topic)
            with self.events.consumer(topic) as consumer:
                next(consumer)
                consumer.commit()

        def test_2_shares_what_is_of_the_class(self) -> None:
            with self.events.producer() as producer:
                producer.send(self.shared, b"1")
            self.events.consume(self.shared)

        def test_3_writes_to_another(self) -> None:
            with contextlib.suppress(KafkaError), self.events.producer() as producer:
                producer.send(self.first, b"1").get(timeout=10)

        def test_4_joins_a_group_by_another_name(self) -> None:
            consumer = self.events.consumer(self.events.topic("orders"), group_id="billing")
            with contextlib.suppress(KafkaError):
                consumer.poll(timeout_ms=1000)

        def test_5_consumes_from_another(self) -> None:
            self.events.consume(self.first)

        def test_6_keeps_to_itself_again(self) -> None:
            topic = self.events.topic("orders")
            with self.events.producer() as producer:
                producer.send(topic, b"1")
            self.events.consume(topic)

    return Strict


class StrictTest(LeakCheckedTestCase):
    """By whatever the clients are known."""

    def check(self, security: Security, mechanism: Mechanism = "SCRAM-SHA-512") -> None:
        """Three tests fail, and each says who touched what of whom."""
        result = run_class(strict_class(security, mechanism))
        text = problems(result)
        failed = [str(test).split()[0] for test, _ in [*result.errors, *result.failures]]
        self.assertEqual(
            [
                "test_3_writes_to_another",
                "test_4_joins_a_group_by_another_name",
                "test_5_consumes_from_another",
            ],
            failed,
            text,
        )
        owner = "test_1_keeps_to_itself-[0-9a-f]+"
        topic = f"the topic '{owner}-orders', which belongs to {owner}"
        self.assertRegex(text, f"events: test_3_writes_to_another-[0-9a-f]+ touched {topic}\n")
        self.assertRegex(
            text,
            "events: test_4_joins_a_group_by_another_name-[0-9a-f]+ touched the group 'billing', "
            "which is not its own",
        )
        self.assertRegex(text, f"events: test_5_consumes_from_another-[0-9a-f]+ touched {topic}\n")

    def test_clients_without_a_name(self) -> None:
        """Plaintext: everybody is nobody, and still may use its own names only."""
        self.check("plaintext")

    def test_clients_with_a_password(self) -> None:
        """SASL."""
        self.check("sasl_plaintext", "PLAIN")

    def test_clients_with_a_certificate(self) -> None:
        """TLS."""
        self.check("ssl")


if __name__ == "__main__":
    unittest.main()
