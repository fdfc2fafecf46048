"""Kafka: producing and consuming, consumer groups that resume, and a restart of the broker."""

import unittest
from itertools import islice

from kafka import KafkaConsumer

from orchestrator import Kafka, ServicesMixin


class Worker:
    """The code under test: it commits each batch when it is done, so that no job is lost."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer

    def work(self, count: int) -> list[bytes]:
        """Do the next jobs."""
        done = [record.value for record in islice(self._consumer, count)]
        self._consumer.commit()
        return done


class JobsTest(ServicesMixin, unittest.TestCase):
    """One broker for the class; each test has topics and a consumer group of its own."""

    events = Kafka()

    def setUp(self) -> None:
        """Three jobs of one customer are waiting."""
        self.topic = self.events.topic("jobs", partitions=2)
        with self.events.producer(acks="all") as producer:
            for job in (b"one", b"two", b"three"):
                producer.send(self.topic, key=b"ada", value=job, headers=[("try", b"1")])

    def test_records_with_one_key_keep_their_order(self) -> None:
        """They are in one partition, with key and headers, however many partitions there are."""
        records = self.events.consume(self.topic, count=3, timeout=10)
        self.assertEqual([b"one", b"two", b"three"], [record.value for record in records])
        self.assertEqual(1, len({record.partition for record in records}))
        self.assertEqual((b"ada", [("try", b"1")]), (records[0].key, list(records[0].headers)))

    def test_group_resumes_where_it_committed(self) -> None:
        """A worker that takes over goes on with the first job that was not committed."""
        with self.events.consumer(self.topic, consumer_timeout_ms=60_000) as consumer:
            self.assertEqual([b"one"], Worker(consumer).work(1))
            self.assertEqual(b"two", next(consumer).value)  # and dies before it commits
        self.assertEqual(2, self.events.lag(self.events.group, self.topic))
        following = Worker(self.events.consumer(self.topic, consumer_timeout_ms=60_000))
        self.assertEqual([b"two", b"three"], following.work(2))

    def test_a_producer_lives_through_a_restart(self) -> None:
        """The broker's port stays the same, and so do its records: a wait is all that it costs."""
        with self.events.producer(acks="all") as producer:
            self.events.restart()
            producer.send(self.topic, b"after").get(timeout=60)
        records = self.events.consume(self.topic, count=4)
        self.assertIn(b"after", [record.value for record in records])
