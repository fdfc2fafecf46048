"""How far a consumer group has come: what a test waits for instead of sleeping."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import confluent_kafka

from orchestrator.errors import ServiceError
from tests.support.kafka import OneBrokerTest


class GroupTest(OneBrokerTest):
    """`lag` counts what a group has not committed; `wait_for_group` waits no longer than told."""

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
