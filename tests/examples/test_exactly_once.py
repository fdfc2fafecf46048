"""Exactly once: results and offsets in one transaction, whatever dies half way."""

from __future__ import annotations

import unittest
from itertools import islice
from typing import TYPE_CHECKING

from kafka import OffsetAndMetadata

from orchestrator import Kafka, ServicesMixin
from orchestrator.errors import ServiceError

if TYPE_CHECKING:
    from kafka import KafkaConsumer, KafkaProducer


class Converter:
    """The code under test: reads amounts in cents, writes them in euros, each exactly once."""

    def __init__(self, consumer: KafkaConsumer, producer: KafkaProducer, target: str) -> None:
        self._consumer = consumer
        self._producer = producer
        self._target = target
        producer.init_transactions()

    def convert(self, count: int) -> None:
        """Convert the next records in one transaction: all of them or none."""
        self._producer.begin_transaction()
        try:
            for record in islice(self._consumer, count):
                euros = f"{int(record.value) / 100:.2f}"
                self._producer.send(self._target, euros.encode())
            done = {
                partition: OffsetAndMetadata(self._consumer.position(partition), "", -1)
                for partition in self._consumer.assignment()
            }
            self._producer.send_offsets_to_transaction(done, self._consumer.group_metadata())
        except ValueError:
            self._producer.abort_transaction()
            raise
        self._producer.commit_transaction()


class ExactlyOnceTest(ServicesMixin, unittest.TestCase):
    """Topics, group and transactional id belong to one test."""

    events = Kafka()

    def setUp(self) -> None:
        """Cents come in, euros go out."""
        self.cents = self.events.topic("cents")
        self.euros = self.events.topic("euros")

    def send(self, *amounts: bytes) -> None:
        """Amounts in cents."""
        with self.events.producer() as producer:
            for amount in amounts:
                producer.send(self.cents, amount)

    def converter(self) -> Converter:
        """One more instance of the service; its clients are closed after the test."""
        consumer = self.events.consumer(self.cents, isolation_level="read_committed")
        name = f"{self.events.prefix}converter"
        return Converter(consumer, self.events.producer(transactional_id=name), self.euros)

    def written(self, count: int) -> list[bytes]:
        """The next results; those of an aborted transaction are not among them."""
        return [record.value for record in self.events.consume(self.euros, count=count)]

    def test_amounts_are_converted(self) -> None:
        """And the group has read all of them."""
        self.send(b"1999", b"5")
        self.converter().convert(2)
        self.assertEqual([b"19.99", b"0.05"], self.written(2))
        self.assertEqual(0, self.events.lag(self.events.group, self.cents))

    def test_a_batch_that_fails_writes_nothing(self) -> None:
        """Not even what came before the bad record; nor is it read as done."""
        self.send(b"100", b"a lot")
        with self.assertRaises(ValueError):
            self.converter().convert(2)
        with self.assertRaisesRegex(ServiceError, "0 of 1 records"):
            self.events.consume(self.euros, timeout=0.5)
        self.assertEqual(2, self.events.lag(self.events.group, self.cents))
