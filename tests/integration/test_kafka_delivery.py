"""What Kafka promises about records and groups: order, transactions, compaction, lag."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import confluent_kafka

from orchestrator.errors import ServiceError
from tests.support.kafka import OneBrokerTest

if TYPE_CHECKING:
    import kafka

COMPACTED = {
    "cleanup.policy": "compact",
    "segment.ms": "50",
    "min.cleanable.dirty.ratio": "0.01",
    "min.compaction.lag.ms": "0",
    "max.compaction.lag.ms": "50",
}


class DeliveryTest(OneBrokerTest):
    """What is sent arrives: as it was sent, in order, all or nothing, exactly once."""

    def test_keys_headers_and_times_arrive(self) -> None:
        """A record is more than its value, and may have none."""
        topic = self.events.topic("orders")
        with self.events.producer() as producer:
            producer.send(
                topic, key=b"ada", value=None, headers=[("a", b"1"), ("a", b"2")], timestamp_ms=7
            )
        [record] = self.events.consume(topic)
        self.assertEqual((b"ada", None, 7), (record.key, record.value, record.timestamp))
        self.assertEqual([("a", b"1"), ("a", b"2")], list(record.headers))

    def test_every_codec_works(self) -> None:
        """What the extra installs can write and read whatever producers in production compress."""
        topic = self.events.topic("orders")
        for codec in ("gzip", "snappy", "lz4", "zstd"):
            with self.subTest(codec):
                self.produce(topic, codec.encode() * 100, compression_type=codec)
                self.assertEqual([codec.encode() * 100], self.values(topic, 1))

    def transactional(self) -> kafka.KafkaProducer:
        """A producer that is ready for its first transaction."""
        producer = self.events.producer(transactional_id=f"{self.events.prefix}writer")
        producer.init_transactions()
        return producer

    def test_committed_records_are_read(self) -> None:
        """Not before they are committed, and then together, over several topics."""
        first, second = self.events.topic("first"), self.events.topic("second")
        producer = self.transactional()
        producer.begin_transaction()
        producer.send(first, b"1")
        producer.send(second, b"2")
        producer.flush()
        with self.assertRaisesRegex(ServiceError, "0 of 1"):
            self.events.consume(first, timeout=0.3)
        producer.commit_transaction()
        self.assertEqual([b"1"], self.values(first, 1))
        self.assertEqual([b"2"], self.values(second, 1))

    def test_aborted_records_are_not_read(self) -> None:
        """What came after them is."""
        topic = self.events.topic("orders")
        producer = self.transactional()
        producer.begin_transaction()
        producer.send(topic, b"never")
        producer.flush()
        producer.abort_transaction()
        producer.begin_transaction()
        producer.send(topic, b"once")
        producer.commit_transaction()
        self.assertEqual([b"once"], self.values(topic, 1))

    def test_only_the_last_value_of_a_key_stays(self) -> None:
        """A compacted topic forgets in seconds, not every quarter of a minute as in production."""
        topic = self.events.topic("prices", settings=COMPACTED)
        with self.events.producer() as producer:
            for price in range(5):
                producer.send(topic, key=b"tea", value=str(price).encode()).get(timeout=10)
        deadline = time.monotonic() + 60
        while (prices := self.prices_of_tea(topic)) != [b"4"]:
            self.assertLess(time.monotonic(), deadline, prices)
            with self.events.producer() as producer:  # an older segment ends when a record comes
                producer.send(topic, key=b"clock", value=b"tick")

    def prices_of_tea(self, topic: str) -> list[bytes]:
        """All that are there now."""
        consumer = self.events.consumer(topic, group_id=None, consumer_timeout_ms=300)
        with consumer:
            return [record.value for record in consumer if record.key == b"tea"]

    # How far a group has come: what a test waits for instead of sleeping

    def test_a_group_that_never_was_has_everything_before_it(self) -> None:
        """Also when the broker has had no group at all yet."""
        topic = self.events.topic("orders", partitions=2)
        self.produce(topic, b"1", b"2", b"3")
        self.assertEqual(3, self.events.lag("nobody", topic))

    def test_it_shrinks_with_what_is_committed(self) -> None:
        """Reading alone does not count."""
        topic = self.events.topic("orders")
        self.produce(topic, b"1", b"2", b"3")
        with self.events.consumer(topic) as consumer:
            next(consumer)
            next(consumer)
            self.assertEqual(3, self.events.lag(self.events.group, topic))
            consumer.commit()
            self.assertEqual(1, self.events.lag(self.events.group, topic))

    def test_a_topic_that_is_not_there_is_an_error(self) -> None:
        """It names it."""
        with self.assertRaisesRegex(ServiceError, "no topic 'nowhere'"):
            self.events.lag(self.events.group, "nowhere")

    def test_it_returns_when_every_partition_has_a_consumer(self) -> None:
        """What is produced from then on is read, also by one that begins at the end."""
        topic = self.events.topic("orders", partitions=2)
        ended = threading.Event()

        def work() -> bytes:
            with self.events.consumer(topic, auto_offset_reset="latest") as consumer:
                while not ended.is_set():
                    for batch in consumer.poll(timeout_ms=100).values():
                        return bytes(batch[0].value)
            return b"nothing"

        with ThreadPoolExecutor(1) as pool:
            worker = pool.submit(work)
            try:
                self.events.wait_for_group(self.events.group, topic)
                self.produce(topic, b"hello")
                self.assertEqual(b"hello", worker.result(timeout=20))
            finally:
                ended.set()

    def test_it_returns_when_a_group_has_caught_up(self) -> None:
        """With `lag`, it is the commits that count, not whether somebody is still there."""
        topic = self.events.topic("orders")
        self.produce(topic, b"1", b"2")

        def work() -> None:
            with self.events.consumer(topic) as consumer:
                for _ in range(2):
                    next(consumer)
                consumer.commit()

        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(work)
            self.events.wait_for_group(self.events.group, topic, lag=0)
            working.result(timeout=20)
        self.events.wait_for_group(self.events.group, topic, lag=0, timeout=1)

    def test_it_says_who_is_missing(self) -> None:
        """State, partitions and time."""
        topic = self.events.topic("orders", partitions=2)
        with self.assertRaises(ServiceError) as caught:
            self.events.wait_for_group("nobody", topic, timeout=0.2)
        self.assertEqual(
            f"events: group 'nobody' on topic '{topic}' is absent, with 0 of 2 partitions "
            "assigned after 0.2 s",
            str(caught.exception),
        )

    def test_it_says_how_far_behind_a_group_is(self) -> None:
        """And how far it may be."""
        topic = self.events.topic("orders")
        self.produce(topic, b"1", b"2")
        with self.assertRaisesRegex(ServiceError, "is 2 records behind, where 1 were asked for"):
            self.events.wait_for_group("nobody", topic, lag=1, timeout=0.2)

    def test_groups_of_the_new_protocol_count_too(self) -> None:
        """Those the broker itself assigns partitions to, as newer clients ask it to."""
        topic = self.events.topic("orders")
        self.produce(topic, b"1")
        consumer = confluent_kafka.Consumer(
            {
                **self.events.confluent_settings,
                "log_level": 0,
                "group.id": self.events.group,
                "group.protocol": "consumer",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
            }
        )
        self.addCleanup(consumer.close)
        consumer.subscribe([topic])
        message = consumer.poll(20)
        assert message is not None
        self.assertEqual(b"1", message.value())
        self.events.wait_for_group(self.events.group, topic)
        self.assertEqual(1, self.events.lag(self.events.group, topic))
        consumer.commit(asynchronous=False)
        self.assertEqual(0, self.events.lag(self.events.group, topic))
