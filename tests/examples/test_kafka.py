"""Kafka: produce and consume, each with a bound on how long it may take."""

from __future__ import annotations

import unittest

from orchestrator import Kafka, ServicesMixin
from orchestrator.errors import ServiceError


class EventsTest(ServicesMixin, unittest.TestCase):
    """One broker for the class; each test has topics and a consumer group of its own."""

    events = Kafka()

    def test_consumer_reads_what_was_produced(self) -> None:
        """Records come in the order they were sent, with key, headers and value."""
        topic = self.events.topic("payments")
        with self.events.producer() as producer:
            producer.send(topic, key=b"ada", value=b"10", headers=[("currency", b"EUR")])
            producer.send(topic, key=b"ada", value=b"20")

        first, second = self.events.consume(topic, count=2, timeout=10)

        self.assertEqual((b"ada", b"10"), (first.key, first.value))
        self.assertEqual([("currency", b"EUR")], list(first.headers))
        self.assertEqual(b"20", second.value)

    def test_broker_acknowledges_a_record(self) -> None:
        """A producer learns where its record was stored, or fails after ten seconds."""
        topic = self.events.topic("payments")
        with self.events.producer(acks="all") as producer:
            stored = producer.send(topic, b"10").get(timeout=10)
        self.assertEqual((topic, 0, 0), (stored.topic, stored.partition, stored.offset))

    def test_records_with_one_key_stay_in_one_partition(self) -> None:
        """Whatever the number of partitions, a customer's records keep their order."""
        topic = self.events.topic("payments", partitions=3)
        with self.events.producer() as producer:
            for number in range(30):
                producer.send(topic, key=b"ada", value=str(number).encode())

        records = self.events.consume(topic, count=30, timeout=10)

        self.assertEqual(1, len({record.partition for record in records}))
        self.assertEqual([str(number).encode() for number in range(30)], [r.value for r in records])

    def test_missing_records_are_an_error(self) -> None:
        """Nobody waits for ever: the error says how many of how many came, and in what time."""
        topic = self.events.topic("payments")
        with self.events.producer() as producer:
            producer.send(topic, b"10")
        with self.assertRaisesRegex(ServiceError, "1 of 2 records"):
            self.events.consume(topic, count=2, timeout=1)


if __name__ == "__main__":
    unittest.main()
