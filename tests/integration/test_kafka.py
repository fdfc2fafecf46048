"""Kafka against the real broker: what a test gets from it, and what is left of it."""

from __future__ import annotations

import contextlib
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import mock

import kafka

from orchestrator import Container, Kafka, ServicesMixin
from orchestrator.errors import DeclarationError, ServiceError, ServiceNotRunningError
from tests.support.classes import LeakCheckedTestCase
from tests.support.kafka import OneBrokerTest
from tests.support.processes import ProcessTestCase

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARED = """
    import unittest
    from orchestrator import Kafka, ServicesMixin
    from orchestrator.errors import ServiceError

    class Shares(ServicesMixin, unittest.TestCase):
        events = Kafka(scope="process")

        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            cls.of_the_class = cls.events.topic(cls.__name__)
            cls.producer = cls.events.producer()
            cls.producer.send(cls.of_the_class, b"x").get(timeout=10)

        def check(self):
            self.assertEqual(b"x", self.events.consume(self.of_the_class)[0].value)
            with self.events.producer() as producer:
                producer.send("made-by-code", b"once")
            self.events.consume("made-by-code")
            with self.assertRaisesRegex(ServiceError, "0 of 1"):
                self.events.consume("made-by-code", timeout=0.2)

        def test_one(self):
            self.check()

        def test_two(self):
            self.check()

    class FirstTest(Shares): ...

    class SecondTest(Shares):
        @classmethod
        def setUpClass(cls):
            assert FirstTest.producer._closed
            super().setUpClass()
            assert cls.events.admin.list_topics().count(FirstTest.of_the_class) == 0

    del Shares
"""


class KafkaTest(OneBrokerTest):
    """One broker for all that a test can do with one."""

    sibling = Container(image="kafka", command=["sleep", "600"])
    kept: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        """A topic of the class itself."""
        super().setUpClass()
        cls.kept = cls.events.topic("kept")
        with cls.events.producer() as producer:
            producer.send(cls.kept, b"for all")

    @contextlib.contextmanager
    def a_test(self, name: str) -> Iterator[Kafka]:
        """What a test of this class gets."""
        with type(self).events.isolated(name) as handle:
            yield handle

    # Where it is

    def test_containers_of_the_class_reach_the_same_broker(self) -> None:
        """A record that a sibling writes comes to the test."""
        topic = self.events.topic("orders")
        producer = "/opt/kafka/bin/kafka-console-producer.sh --bootstrap-server $0 --topic $1"
        script = f"echo from the sibling | {producer}"
        self.sibling.exec(["bash", "-c", script, self.events.internal_bootstrap, topic])
        self.assertEqual([b"from the sibling"], self.values(topic, 1))

    def test_info_tells_what_runs(self) -> None:
        """Version, broker, cluster and listeners, for the failure of a test."""
        info = self.events.info()
        self.assertRegex(str(info["server"]), r"^Kafka \d+\.\d+\.\d+$")
        self.assertEqual(1, info["broker"])
        self.assertTrue(info["cluster"])
        for url in (self.events.url, self.events.internal_url):
            self.assertIn(url, str(info["listeners"]))
        self.assertEqual(f"127.0.0.1:{self.events.port}", self.events.url)
        self.assertEqual("events:19092", self.events.internal_url)

    # Topics

    def test_a_topic_can_be_written_to_at_once(self) -> None:
        """A producer that tries once, and waits for nothing, never comes too early."""
        with self.events.producer(retries=0, acks=1, enable_idempotence=False) as producer:
            for number in range(25):
                sent = producer.send(self.events.topic(f"orders-{number}"), b"now")
                self.assertEqual(0, sent.get(timeout=10).offset)

    def test_a_topic_is_as_it_was_asked_for(self) -> None:
        """All its partitions take records, and its settings are set."""
        settings = {"cleanup.policy": "compact"}
        topic = self.events.topic("orders", partitions=4, settings=settings)
        with self.events.producer() as producer:
            for partition in range(4):
                producer.send(topic, key=b"k", value=b"x", partition=partition)
        records = self.events.consume(topic, count=4, timeout=10)
        self.assertEqual([0, 1, 2, 3], sorted(record.partition for record in records))
        resource = kafka.admin.ConfigResource("TOPIC", topic)
        [described] = self.events.admin.describe_configs([resource]).values()
        self.assertEqual("compact", described[topic]["cleanup.policy"]["value"])

    def test_the_same_name_is_the_same_topic(self) -> None:
        """A helper and a test may both ask for it; not for different ones."""
        compact = {"cleanup.policy": "compact"}
        topic = self.events.topic("orders", settings=compact)
        self.assertEqual(topic, self.events.topic("orders"))
        with self.assertRaisesRegex(DeclarationError, "has 1 partitions .* cannot have 2"):
            self.events.topic("orders", partitions=2)
        with self.assertRaisesRegex(DeclarationError, "compact.* cannot have .*delete"):
            self.events.topic("orders", settings={"cleanup.policy": "delete"})

    def test_what_kafka_does_not_allow_is_refused(self) -> None:
        """Names and numbers before they are sent anywhere, settings with the broker's words."""
        for name in ("", "or ders", "töpic", "a" * 201):
            with self.subTest(name), self.assertRaises(DeclarationError):
                self.events.topic(name)
        for partitions in (0, -1, 1.5, True):
            with self.subTest(partitions), self.assertRaises(DeclarationError):
                self.events.topic("orders", partitions=partitions)  # type: ignore[arg-type]
        with self.assertRaisesRegex(ServiceError, "orders.*no.such.setting"):
            self.events.topic("orders", settings={"no.such.setting": "1"})

    # Records

    def test_the_next_call_goes_on_where_the_last_ended(self) -> None:
        """Each record is read once."""
        topic = self.events.topic("orders")
        self.produce(topic, b"1", b"2", b"3")
        self.assertEqual([b"1"], self.values(topic, 1))
        self.assertEqual([b"2", b"3"], self.values(topic, 2))

    def test_too_few_records_are_an_error_that_loses_none(self) -> None:
        """It says how many of how many; the next call reads them again."""
        topic = self.events.topic("orders")
        self.produce(topic, b"1", b"2")
        with self.assertRaises(ServiceError) as caught:
            self.events.consume(topic, count=3, timeout=0.5)
        self.assertEqual(
            f"events: 2 of 3 records came from topic '{topic}' in 0.5 s", str(caught.exception)
        )
        self.produce(topic, b"3")
        self.assertEqual([b"1", b"2", b"3"], self.values(topic, 3))

    def test_a_topic_that_is_not_there_is_named(self) -> None:
        """A misspelt name is told, and not created."""
        with self.assertRaisesRegex(ServiceError, "0 of 1 .* there is no such topic"):
            self.events.consume("no-such-topic", timeout=0.2)
        self.assertNotIn("no-such-topic", self.events.admin.list_topics())

    def test_a_topic_may_come_later(self) -> None:
        """The code under test creates it while the test waits."""
        name = f"{self.events.prefix}later"
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self.values, name, 1)
            self.produce(name, b"late")
            self.assertEqual([b"late"], waiting.result(timeout=20))

    def test_what_consume_cannot_wait_for_is_refused(self) -> None:
        """No record is no number of records, and a timeout is in seconds."""
        bad: list[dict[str, Any]] = [{"count": 0}, {"count": -1}, {"count": 1.0}]
        bad += [{"timeout": -1}, {"timeout": "10"}, {"timeout": None}]
        for arguments in bad:
            with (
                self.subTest(arguments),
                self.assertRaisesRegex(DeclarationError, f"{next(iter(arguments))}="),
            ):
                self.events.consume("any", **arguments)

    def test_threads_share_a_topic(self) -> None:
        """Several threads that consume get every record once."""
        topic = self.events.topic("orders", partitions=2)
        sent = [str(number).encode() for number in range(40)]
        self.produce(topic, *sent)
        with ThreadPoolExecutor(4) as pool:
            parts = pool.map(lambda _: self.values(topic, 10), range(4))
        self.assertEqual(sorted(sent), sorted(value for part in parts for value in part))

    def test_threads_have_topics_of_their_own(self) -> None:
        """Creating, producing and consuming side by side."""

        def one(number: int) -> bool:
            topic = self.events.topic(f"orders-{number}")
            self.produce(topic, str(number).encode())
            return self.values(topic, 1) == [str(number).encode()]

        with ThreadPoolExecutor(6) as pool:
            self.assertEqual([True] * 12, list(pool.map(one, range(12))))

    # Clients

    def test_a_consumer_suits_a_test(self) -> None:
        """It reads from the start, in the test's group, commits nothing, and ends."""
        topic = self.events.topic("orders")
        self.produce(topic, b"1")
        config = self.events.consumer(topic).config
        self.assertEqual(self.events.group, config["group_id"])
        self.assertEqual("earliest", config["auto_offset_reset"])
        self.assertFalse(config["enable_auto_commit"])
        self.assertEqual(10_000, config["consumer_timeout_ms"])
        quick = self.events.consumer(topic, group_id="quick", consumer_timeout_ms=100)
        [[record]] = quick.poll(timeout_ms=30_000).values()
        self.assertEqual(b"1", record.value)
        self.assertEqual([], list(quick))

    def test_new_clients_do_not_pause(self) -> None:
        """kafka-python's own 100 ms are shortened where they really are, unless one asks."""
        producer = self.events.producer()
        self.assertEqual(10, producer._metadata.config["retry_backoff_ms"])
        self.assertEqual(10, self.events.consumer()._cluster.config["retry_backoff_ms"])
        own = self.events.producer(retry_backoff_ms=50, request_timeout_ms=7)
        self.assertEqual(50, own._metadata.config["retry_backoff_ms"])
        self.assertEqual(7, own.config["request_timeout_ms"])

    def test_clients_that_are_left_open_are_closed(self) -> None:
        """With the test that opened them."""
        with self.a_test("test_one-1") as one:
            topic = one.topic("orders")
            clients = [one.producer(), one.consumer(topic), one.admin]
            clients[0].send(topic, b"x").get(timeout=10)
            self.assertEqual(b"x", next(clients[1]).value)
        self.assertEqual([True] * 3, [client._closed for client in clients])

    # Clean state

    def test_whatever_a_test_makes_is_gone_in_the_next(self) -> None:
        """Topics and groups by any name; what is of the class stays."""
        with self.a_test("test_one-1") as one:
            topics = [one.topic("own"), "made-by-the-code-under-test"]
            with one.producer() as producer:
                for topic in topics:
                    producer.send(topic, b"of the first")
            for group in (one.group, "fixed-group"):
                with one.consumer(self.kept, group_id=group) as consumer:
                    next(consumer)
                    consumer.commit()
            self.assertLessEqual({*topics, self.kept}, set(one.admin.list_topics()))
            self.assertIn("fixed-group", [g["group_id"] for g in one.admin.list_groups()])
        with self.a_test("test_two-2") as two:
            left = {name for name in two.admin.list_topics() if not name.startswith("__")}
            self.assertEqual({self.kept}, left)
            self.assertEqual([], two.admin.list_groups())
            with two.producer() as producer:
                producer.send("made-by-the-code-under-test", b"of the second")
            [record] = two.consume("made-by-the-code-under-test")
            self.assertEqual(b"of the second", record.value)
            self.assertEqual(b"for all", next(two.consumer(self.kept, group_id="fixed")).value)

    def test_what_code_makes_that_outlived_its_test_goes_too(self) -> None:
        """Between two tests nobody is looking, so it is looked for when a test begins."""
        with kafka.KafkaProducer(bootstrap_servers=self.events.bootstrap) as stranger:
            stranger.send("from-the-past", b"x").get(timeout=10)
        with self.a_test("test_one-1") as one:
            self.assertNotIn("from-the-past", one.admin.list_topics())

    # Faults

    def test_consume_keeps_its_time_when_the_broker_is_frozen(self) -> None:
        """Also a reader that has not read before."""
        topic = self.events.topic("orders")
        with self.events.paused():
            began = time.monotonic()
            with self.assertRaisesRegex(ServiceError, "0 of 1 records"):
                self.events.consume(topic, timeout=0.5)
            self.assertLess(time.monotonic() - began, 5)
        self.produce(topic, b"thawed")
        self.assertEqual([b"thawed"], self.values(topic, 1))

    def test_a_restarted_broker_has_its_topics(self) -> None:
        """On the same port; the service says what it cannot do meanwhile, and finds it again."""
        topic = self.events.topic("orders")
        self.produce(topic, b"kept")
        self.events.kill()
        with self.assertRaisesRegex(ServiceError, "'.*-late' could not be made: .*Error"):
            self.events.topic("late")
        with self.assertRaisesRegex(ServiceError, "the lag of group 'any' cannot be told"):
            self.events.lag("any", topic)
        self.events.restart()
        self.assertEqual([b"kept"], self.values(topic, 1, timeout=20))
        with self.a_test("test_one-1") as one:
            one.topic("more")


class EndingTest(LeakCheckedTestCase):
    """What happens where there is no broker, or no longer."""

    def test_a_test_after_a_dead_broker_is_told_soon(self) -> None:
        """The error says how it ended, and no thread of a client is left."""

        class Kills(ServicesMixin, unittest.TestCase):
            events = Kafka()

            def test_1_kills(self) -> None:
                topic = self.events.topic("orders")
                self.events.producer().send(topic, b"x")
                self.events.consume(topic)
                next(self.events.consumer(topic))
                _ = self.events.admin
                self.events.kill()

            def test_2_is_told(self) -> None:
                self.fail("it cannot have clean state")

        before, began = set(threading.enumerate()), time.monotonic()
        text = self.assert_error(Kills, "events exited with exit code 137")
        self.assertNotIn("it cannot", text)
        self.assertLess(time.monotonic() - began, 60)
        self.assertEqual(set(), {t for t in threading.enumerate() if t.is_alive()} - before)

    def test_without_its_driver_the_class_says_what_to_install(self) -> None:
        """kafka-python, and trustme for certificates."""

        class Plain(ServicesMixin, unittest.TestCase):
            events = Kafka()

            def test_it(self) -> None: ...

        class Tls(Plain):
            events = Kafka(security="ssl")

        with mock.patch.dict("sys.modules", {"kafka": None, "trustme": None}):
            self.assert_error(Plain, "MissingDriverError", "unittest-orchestrator[kafka]")
            self.assert_error(Tls, "MissingDriverError", "unittest-orchestrator[tls]")

    def test_a_declaration_that_does_not_run_says_so(self) -> None:
        """Each way to use it."""

        class Declares(ServicesMixin, unittest.TestCase):
            events = Kafka()

        for use in (
            lambda: Declares.events.topic("orders"),
            Declares.events.producer,
            Declares.events.consumer,
            lambda: Declares.events.consume("orders"),
            lambda: Declares.events.admin,
            lambda: Declares.events.bootstrap,
        ):
            with self.assertRaisesRegex(ServiceNotRunningError, r"Declares\.events"):
                use()


class SharedTest(ProcessTestCase):
    """One broker for several classes."""

    def test_each_class_has_what_it_made_for_all_its_tests(self) -> None:
        """And clean state for each of them, and clients that end with the class."""
        self.write("test_shared.py", SHARED)
        status, output = self.run_python("-W", "error", "-m", "unittest", "-v", "test_shared")
        self.assertEqual(0, status, output)
        self.assertIn("Ran 4 tests", output)


if __name__ == "__main__":
    unittest.main()
