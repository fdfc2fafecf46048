"""Consumer group offsets: commit them, and go on from there in the same group."""

from __future__ import annotations

import unittest
from itertools import islice
from typing import TYPE_CHECKING

from orchestrator import Kafka, ServicesMixin

if TYPE_CHECKING:
    from kafka import KafkaConsumer


class Worker:
    """Reads jobs, and commits each batch when it is done: none is lost, whenever it dies."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer

    def work(self, count: int) -> list[str]:
        """Do the next jobs; fewer when no more come."""
        done = [record.value.decode() for record in islice(self._consumer, count)]
        self._consumer.commit()
        return done


class ConsumerGroupTest(ServicesMixin, unittest.TestCase):
    """Every test has a consumer group of its own."""

    events = Kafka()

    def setUp(self) -> None:
        """Five jobs are waiting."""
        self.topic = self.events.topic("jobs")
        with self.events.producer() as producer:
            for job in ("one", "two", "three", "four", "five"):
                producer.send(self.topic, job.encode())

    def consumer(self, **config: object) -> KafkaConsumer:
        """A consumer that ends its iteration when nothing came for ten seconds."""
        return self.events.consumer(self.topic, consumer_timeout_ms=10_000, **config)

    def test_group_resumes_where_it_committed(self) -> None:
        """A worker that takes over goes on with the first job that was not committed."""
        with self.consumer() as consumer:
            self.assertEqual(["one", "two"], Worker(consumer).work(2))
        with self.consumer() as consumer:
            self.assertEqual(["three", "four", "five"], Worker(consumer).work(3))

    def test_uncommitted_jobs_come_again(self) -> None:
        """What a worker read without committing, the next one reads again."""
        with self.consumer() as consumer:
            self.assertEqual([b"one", b"two"], [record.value for record in islice(consumer, 2)])
        with self.consumer() as consumer:
            self.assertEqual(["one"], Worker(consumer).work(1))

    def test_another_group_reads_from_the_start(self) -> None:
        """Offsets belong to a group; another one has its own."""
        with self.consumer() as consumer:
            Worker(consumer).work(5)
        with self.consumer(group_id=f"{self.events.group}-audit") as consumer:
            self.assertEqual(["one"], Worker(consumer).work(1))

    def test_committed_offset_can_be_read(self) -> None:
        """The broker tells how far a group has come."""
        with self.consumer() as consumer:
            Worker(consumer).work(2)
            [partition] = consumer.assignment()
            self.assertEqual(2, consumer.committed(partition))


if __name__ == "__main__":
    unittest.main()
