"""A broker restart: producers and consumers that live through it."""

from __future__ import annotations

import unittest

from orchestrator import Kafka, ServicesMixin


class BrokerRestartTest(ServicesMixin, unittest.TestCase):
    """The broker's port stays the same, so clients find it again by themselves."""

    events = Kafka()

    def test_records_survive_a_restart(self) -> None:
        """What was acknowledged before is read after, and new records follow."""
        topic = self.events.topic("orders")
        with self.events.producer(acks="all") as producer:
            producer.send(topic, b"before").get(timeout=30)
            self.events.restart()
            producer.send(topic, b"after").get(timeout=60)
        records = self.events.consume(topic, count=2, timeout=60)
        self.assertEqual([b"before", b"after"], [record.value for record in records])

    def test_a_consumer_goes_on_where_it_was(self) -> None:
        """It was connected all the time; the restart costs it a wait, and no record."""
        topic = self.events.topic("orders")
        consumer = self.events.consumer(topic, consumer_timeout_ms=60_000)
        with self.events.producer() as producer:
            producer.send(topic, b"before").get(timeout=30)
            self.assertEqual(b"before", next(consumer).value)
            consumer.commit()
            self.events.restart()
            producer.send(topic, b"after").get(timeout=60)
        self.assertEqual(b"after", next(consumer).value)


if __name__ == "__main__":
    unittest.main()
