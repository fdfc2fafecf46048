"""Kafka against the real broker: what a test gets from it, and what is left of it."""

import gc
import threading
import time
import unittest
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar
from unittest import mock

import kafka
from kafka.errors import KafkaError

from orchestrator import Kafka, ServicesMixin
from orchestrator.errors import DeclarationError, MissingDriverError, ServiceError
from tests.integration.test_container_security import assert_confined


class KafkaTest(ServicesMixin, unittest.TestCase):
    """One broker for all that a test can do with one."""

    events = Kafka()
    kept: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        """A topic of the class itself."""
        super().setUpClass()
        cls.kept = cls.events.topic(cls.__name__)
        cls.events.producer().send(cls.kept, b"for all").get(timeout=60)

    def produce(self, topic: str, *values: bytes, **config: Any) -> None:
        """Send values and wait until the broker has them."""
        with self.events.producer(**config) as producer:
            for value in values:
                producer.send(topic, value)

    def values(self, topic: str, count: int, *, timeout: float = 10) -> Sequence[bytes]:
        """The next values of a topic."""
        return [record.value for record in self.events.consume(topic, count=count, timeout=timeout)]

    def test_it_is_confined(self) -> None:
        """As every other service is; its image needs no capability."""
        assert_confined(self, self.events, capabilities=set())

    # Topics

    def test_a_topic_can_be_written_to_at_once(self) -> None:
        """A producer that tries once, and waits for nothing, never comes too early."""
        with self.events.producer(retries=0, acks=1, enable_idempotence=False) as producer:
            for number in range(25):
                sent = producer.send(self.events.topic(f"orders-{number}"), b"now")
                self.assertEqual(0, sent.get(timeout=60).offset)

    def test_a_topic_is_as_it_was_asked_for(self) -> None:
        """Its partitions take records, its settings are set; asked for again, it is the same."""
        compact = {"cleanup.policy": "compact"}
        topic = self.events.topic("orders", partitions=4, settings=compact)
        with self.events.producer() as producer:
            for partition in range(4):
                producer.send(topic, key=b"k", value=b"x", partition=partition)
        records = self.events.consume(topic, count=4, timeout=60)
        self.assertEqual([0, 1, 2, 3], sorted(record.partition for record in records))
        resource = kafka.admin.ConfigResource("TOPIC", topic)
        [described] = self.events.admin.describe_configs([resource]).values()
        self.assertEqual("compact", described[topic]["cleanup.policy"]["value"])
        self.assertEqual(topic, self.events.topic("orders", 4))
        for partitions, settings in ((2, None), (4, {})):
            with self.assertRaisesRegex(DeclarationError, "has 4 .*compact.* cannot have"):
                self.events.topic("orders", partitions, settings=settings)

    def test_what_cannot_be_is_refused(self) -> None:
        """Names, numbers and times before anything is sent, settings in the broker's words."""
        bad: list[tuple[str, dict[str, Any]]]
        bad = [("topic", {"name": name}) for name in ("", "or ders", "töpic", "a" * 201)]
        bad += [("topic", {"name": "a", "partitions": count}) for count in (0, 1.5, True)]
        bad += [("consume", {"topic": "a", "count": count}) for count in (0, 1.0)]
        bad += [("consume", {"topic": "a", "timeout": seconds}) for seconds in (-1, "10", None)]
        group = {"group": "a", "topic": "a"}
        bad += [("wait_for_group", {**group, "timeout": it}) for it in (None, float("nan"))]
        bad += [("wait_for_group", {**group, "lag": -1}), ("topic", {"name": "a", "settings": [1]})]
        for method, arguments in bad:
            with self.subTest(method, **arguments), self.assertRaises(DeclarationError):
                getattr(self.events, method)(**arguments)
        with self.assertRaisesRegex(ServiceError, "orders.*no.such.setting"):
            self.events.topic("orders", settings={"no.such.setting": "1"})

    # Records

    def test_every_codec_works(self) -> None:
        """Whatever producers in production compress; one that is not installed names the extra."""
        for codec in ("gzip", "snappy", "lz4", "zstd"):
            topic = self.events.topic(codec)
            self.produce(topic, codec.encode() * 100, compression_type=codec)
            with self.subTest(codec):
                self.assertEqual([codec.encode() * 100], self.values(topic, 1))
        self.produce(topic, b"lost" * 100, compression_type="zstd")
        with mock.patch("kafka.codec.zstd", None):
            with self.assertRaisesRegex(MissingDriverError, r"zstd.*\[kafka\]"):
                self.events.producer(compression_type="zstd")
            for _ in range(2):  # the second call does not hang
                with self.assertRaisesRegex(MissingDriverError, r"zstd.*\[kafka\]"):
                    self.events.consume(topic)

    def test_each_record_is_read_once(self) -> None:
        """The next call goes on where the last ended; too few are an error that loses none."""
        topic = self.events.topic("orders")
        self.produce(topic, b"1", b"2", b"3")
        self.assertEqual([b"1"], self.values(topic, 1))
        told = f"^events: 2 of 3 records came from topic '{topic}' in 0.5 s$"
        with self.assertRaisesRegex(ServiceError, told):
            self.events.consume(topic, count=3, timeout=0.5)
        self.produce(topic, b"4")
        self.assertEqual([b"2", b"3", b"4"], self.values(topic, 3))

    def test_a_topic_may_come_later(self) -> None:
        """A misspelt name is told and not created; the code under test may create it meanwhile."""
        name = f"{self.events.prefix}later"
        with self.assertRaisesRegex(ServiceError, "0 of 1 .* there is no such topic"):
            self.events.consume(name, timeout=1.5)  # a busy machine takes one to connect
        self.assertNotIn(name, self.events.admin.list_topics())
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self.values, name, 1)
            self.produce(name, b"late")
            self.assertEqual([b"late"], waiting.result(timeout=20))

    # Clients

    def test_clients_suit_a_test(self) -> None:
        """From the start, in the test's group, committing nothing; what is given counts more."""
        topic = self.events.topic("orders")
        self.produce(topic, b"1")
        config = self.events.consumer(topic).config
        self.assertEqual(self.events.group, config["group_id"])
        self.assertEqual("earliest", config["auto_offset_reset"])
        self.assertFalse(config["enable_auto_commit"])
        quick = self.events.consumer(topic, group_id="quick", consumer_timeout_ms=100)
        [[record]] = quick.poll(timeout_ms=30_000).values()
        self.assertEqual(b"1", record.value)
        self.assertEqual([], list(quick))
        self.assertEqual(7, self.events.producer(request_timeout_ms=7).config["request_timeout_ms"])

    # Groups: what a test waits for instead of sleeping

    def test_lag_shrinks_with_what_is_committed(self) -> None:
        """A group that never was has everything before it; reading alone does not count."""
        topic = self.events.topic("orders", partitions=2)
        self.produce(topic, b"1", b"2", b"3")
        group = self.events.group
        self.assertEqual(3, self.events.lag(group, topic))
        with self.events.consumer(topic) as consumer:
            next(consumer)
            next(consumer)
            self.assertEqual(3, self.events.lag(group, topic))
            consumer.commit()
            self.assertEqual(1, self.events.lag(group, topic))
        with self.assertRaisesRegex(ServiceError, "is 1 records behind, where 0 were asked for"):
            self.events.wait_for_group(group, topic, lag=0, timeout=0.2)
        self.events.wait_for_group(group, topic, lag=1, timeout=1)
        with self.assertRaisesRegex(ServiceError, "no topic 'nowhere'"):
            self.events.lag(group, "nowhere")

    def test_it_returns_when_every_partition_has_a_consumer(self) -> None:
        """What is produced from then on is read, also by one that begins at the end."""
        topic = self.events.topic("orders", partitions=2)
        with self.assertRaisesRegex(ServiceError, "absent, with 0 of 2 partitions assigned after"):
            self.events.wait_for_group(self.events.group, topic, timeout=0.2)
        patient = {"auto_offset_reset": "latest", "consumer_timeout_ms": 60_000}
        with self.events.consumer(topic, **patient) as consumer, ThreadPoolExecutor(1) as pool:
            reading = pool.submit(next, consumer)
            self.events.wait_for_group(self.events.group, topic)
            self.produce(topic, b"hello")
            self.assertEqual(b"hello", reading.result(timeout=60).value)

    # Clean state

    def test_whatever_a_test_makes_is_gone_in_the_next(self) -> None:
        """Topics and groups by any name, also of code that outlived it; but not the class's."""
        with type(self).events.isolated("test_one-1") as one:
            topics = [one.topic("own"), "made-by-the-code-under-test"]
            clients = [one.producer(), one.admin]
            for topic in topics:
                clients[0].send(topic, b"of the first")
            clients[0].flush()
            for group in (one.group, "fixed-group"):
                clients.append(one.consumer(self.kept, group_id=group))
                next(clients[-1])
                clients[-1].commit()
            self.assertLessEqual({*topics, self.kept}, set(one.admin.list_topics()))
            self.assertIn("fixed-group", [g["group_id"] for g in one.admin.list_groups()])
        self.assertEqual([True] * 4, [client._closed for client in clients])
        with kafka.KafkaProducer(bootstrap_servers=self.events.bootstrap) as stranger:
            stranger.send("from-the-past", b"x").get(timeout=60)
        reader = kafka.KafkaConsumer(
            self.kept, **self.events.client_settings, group_id="fixed", auto_offset_reset="earliest"
        )
        self.addCleanup(reader.close, autocommit=False)
        self.assertEqual(b"for all", next(reader).value)  # and it never leaves its group
        with type(self).events.isolated("test_two-2") as two:
            left = {name for name in two.admin.list_topics() if not name.startswith("__")}
            self.assertEqual({self.kept}, left)
            self.assertEqual([], two.admin.list_groups())
            with two.producer() as producer:
                producer.send("made-by-the-code-under-test", b"of the second")
            [record] = two.consume("made-by-the-code-under-test")
            self.assertEqual(b"of the second", record.value)
            self.assertEqual(b"for all", next(two.consumer(self.kept, group_id="fixed")).value)

    # Faults

    def test_consume_keeps_its_time_when_the_broker_is_frozen(self) -> None:
        """Also a reader that has not read before."""
        topic = self.events.topic("orders")
        with self.events.paused():
            began = time.monotonic()
            with self.assertRaisesRegex(ServiceError, "0 of 1 records"):
                self.events.consume(topic, timeout=0.5)
            self.assertLess(time.monotonic() - began, 20)
        self.produce(topic, b"thawed")
        self.assertEqual([b"thawed"], self.values(topic, 1))

    def test_a_restarted_broker_has_its_topics(self) -> None:
        """On the same port; the service says what it cannot do meanwhile, and finds it again."""
        self.assert_told_that_it_is_dead()
        with self.assertRaisesRegex(ServiceError, "'.*-late' could not be made: .*Error"):
            self.events.topic("late")
        with self.assertRaisesRegex(ServiceError, "the lag of group 'any' cannot be told"):
            self.events.lag("any", self.kept)
        self.events.restart()
        self.assertEqual([b"for all"], self.values(self.kept, 1, timeout=20))
        with type(self).events.isolated("test_one-1") as one:
            one.topic("more")

    def assert_told_that_it_is_dead(self) -> None:
        """The next test fails soon; of the one before no client's thread or socket is left."""
        before = set(threading.enumerate())
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", ResourceWarning)
            self.use_everything_and_kill()
            began = time.monotonic()
            with (
                self.assertRaises((KafkaError, ServiceError)),
                type(self).events.isolated("test_two-2"),
            ):
                self.fail("it cannot have clean state")
            self.assertLess(time.monotonic() - began, 60)
            gc.collect()
        self.assertEqual([], [str(each.message) for each in told if "socket" in str(each.message)])
        self.assertEqual(set(), {t for t in threading.enumerate() if t.is_alive()} - before)

    def use_everything_and_kill(self) -> None:
        """A test that has a client of each kind, and ends without its broker."""
        with type(self).events.isolated("test_killed-3") as one:
            topic = one.topic("orders")
            one.producer().send(topic, b"x")
            one.consume(topic)
            next(one.consumer(topic))
            _ = one.admin
            one.kill()
