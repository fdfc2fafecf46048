"""Kafka against the real broker: what a test gets from it, and what is left of it."""

from __future__ import annotations

import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar
from unittest import mock

import kafka

from orchestrator import Container, Kafka, ServicesMixin
from orchestrator.errors import DeclarationError, ServiceError, ServiceNotRunningError
from tests.support.classes import LeakCheckedTestCase
from tests.support.kafka import OneBrokerTest
from tests.support.processes import ProcessTestCase

BIN = "/opt/kafka/bin"
SHARED = """
    import threading
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

    del Shares
"""


class ReachTest(OneBrokerTest):
    """Clients on the host and in containers of the class meet at one broker."""

    sibling = Container(image="kafka", command=["sleep", "600"])

    def test_a_sibling_reads_what_the_host_wrote(self) -> None:
        """The Java client in another container finds the broker by its alias."""
        topic = self.events.topic("orders")
        self.produce(topic, b"from the host")
        read = self.sibling.exec(
            [
                f"{BIN}/kafka-console-consumer.sh",
                f"--bootstrap-server={self.events.internal_bootstrap}",
                f"--topic={topic}",
                "--from-beginning",
                "--max-messages=1",
                "--timeout-ms=20000",
            ]
        )
        self.assertIn("from the host", read.output)

    def test_the_host_reads_what_a_sibling_wrote(self) -> None:
        """A record from another container comes to the test."""
        topic = self.events.topic("orders")
        producer = f"{BIN}/kafka-console-producer.sh --bootstrap-server $0 --topic $1"
        script = f"echo from the sibling | {producer}"
        self.sibling.exec(["bash", "-c", script, self.events.internal_bootstrap, topic])
        self.assertEqual([b"from the sibling"], self.values(topic, 1))

    def test_urls_are_the_bootstrap_addresses(self) -> None:
        """The same words as of every service."""
        self.assertEqual(f"127.0.0.1:{self.events.port}", self.events.url)
        self.assertEqual("events:19092", self.events.internal_url)

    def test_info_tells_what_runs(self) -> None:
        """Version, broker, cluster and listeners, for the failure of a test."""
        info = self.events.info()
        self.assertRegex(str(info["server"]), r"^Kafka \d+\.\d+\.\d+$")
        self.assertEqual(1, info["broker"])
        self.assertTrue(info["cluster"])
        self.assertIn(self.events.bootstrap, str(info["listeners"]))
        self.assertIn(self.events.internal_bootstrap, str(info["listeners"]))


class TopicTest(OneBrokerTest):
    """Topics are created for one test, and can be used at once."""

    def test_a_topic_can_be_written_to_at_once(self) -> None:
        """A producer that tries once, and waits for nothing, never comes too early."""
        with self.events.producer(retries=0, acks=1, enable_idempotence=False) as producer:
            for number in range(25):
                sent = producer.send(self.events.topic(f"orders-{number}"), b"now")
                self.assertEqual(0, sent.get(timeout=10).offset)

    def test_a_topic_has_the_partitions_asked_for(self) -> None:
        """Every one of them takes records."""
        topic = self.events.topic("orders", partitions=4)
        with self.events.producer() as producer:
            for partition in range(4):
                producer.send(topic, b"x", partition=partition)
        records = self.events.consume(topic, count=4, timeout=10)
        self.assertEqual([0, 1, 2, 3], sorted(record.partition for record in records))

    def test_the_same_name_is_the_same_topic(self) -> None:
        """A helper and a test may both ask for it."""
        self.assertEqual(self.events.topic("orders"), self.events.topic("orders"))

    def test_the_same_name_with_other_partitions_is_refused(self) -> None:
        """One of the two would get what it did not ask for."""
        self.events.topic("orders")
        with self.assertRaisesRegex(DeclarationError, "has 1 partitions .* cannot have 2"):
            self.events.topic("orders", partitions=2)

    def test_the_same_name_with_other_settings_is_refused(self) -> None:
        """Who names none takes the topic as it is."""
        compact = {"cleanup.policy": "compact"}
        self.assertEqual(self.events.topic("orders", settings=compact), self.events.topic("orders"))
        with self.assertRaisesRegex(DeclarationError, "compact.* cannot have .*delete"):
            self.events.topic("orders", settings={"cleanup.policy": "delete"})

    def test_a_name_that_kafka_does_not_allow_is_refused(self) -> None:
        """Before it is sent anywhere."""
        for name in ("", "or ders", "töpic", "a" * 201):
            with self.subTest(name), self.assertRaises(DeclarationError):
                self.events.topic(name)

    def test_a_number_of_partitions_that_cannot_be_is_refused(self) -> None:
        """None, less than none, and half a one."""
        for partitions in (0, -1, 1.5, True):
            with self.subTest(partitions), self.assertRaises(DeclarationError):
                self.events.topic("orders", partitions=partitions)  # type: ignore[arg-type]

    def test_a_setting_that_the_broker_refuses_is_an_error_of_ours(self) -> None:
        """It says which topic, and what the broker said."""
        with self.assertRaisesRegex(ServiceError, "orders.*no.such.setting"):
            self.events.topic("orders", settings={"no.such.setting": "1"})

    def test_a_topic_takes_settings(self) -> None:
        """Such as the policy by which it forgets."""
        topic = self.events.topic("orders", settings={"cleanup.policy": "compact"})
        resource = kafka.admin.ConfigResource("TOPIC", topic)
        [described] = self.events.admin.describe_configs([resource]).values()
        self.assertEqual("compact", described[topic]["cleanup.policy"]["value"])

    def test_names_begin_with_the_prefix(self) -> None:
        """What code under test makes with it belongs to this test."""
        self.assertTrue(self.events.topic("orders").startswith(self.events.prefix))
        self.assertTrue(self.events.group.startswith(self.events.prefix))


class ConsumeTest(OneBrokerTest):
    """`consume` waits for records, and not for ever."""

    def test_the_next_call_goes_on_where_the_last_ended(self) -> None:
        """Each record is read once."""
        topic = self.events.topic("orders")
        self.produce(topic, b"1", b"2", b"3")
        self.assertEqual([b"1"], self.values(topic, 1))
        self.assertEqual([b"2", b"3"], self.values(topic, 2))

    def test_too_few_records_are_an_error_that_counts(self) -> None:
        """How many of how many, from where, and in what time."""
        topic = self.events.topic("orders")
        self.produce(topic, b"1", b"2")
        with self.assertRaises(ServiceError) as caught:
            self.events.consume(topic, count=3, timeout=0.5)
        self.assertEqual(
            f"events: 2 of 3 records came from topic '{topic}' in 0.5 s", str(caught.exception)
        )
        self.assertEqual("events", caught.exception.service)

    def test_what_came_in_vain_is_read_again(self) -> None:
        """A record that came before an error is not lost."""
        topic = self.events.topic("orders")
        self.produce(topic, b"1")
        with self.assertRaises(ServiceError):
            self.events.consume(topic, count=2, timeout=0.5)
        self.produce(topic, b"2")
        self.assertEqual([b"1", b"2"], self.values(topic, 2))

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

    def test_no_record_is_not_a_number_of_records(self) -> None:
        """To expect none is another question."""
        for count in (0, -1, 1.0):
            with self.subTest(count), self.assertRaises(DeclarationError):
                self.events.consume("any", count=count)  # type: ignore[arg-type]

    def test_a_timeout_is_a_number_of_seconds(self) -> None:
        """And not a text, or less than none."""
        for timeout in (-1, "10", None):
            with self.subTest(timeout), self.assertRaisesRegex(DeclarationError, "timeout="):
                self.events.consume("any", timeout=timeout)  # type: ignore[arg-type]

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


class ClientsTest(OneBrokerTest):
    """Clients opened through the service suit a test, and end with it."""

    opened: ClassVar[list[Any]] = []

    def test_1_open_clients(self) -> None:
        """A test leaves its clients open."""
        topic = self.events.topic("orders")
        producer, consumer = self.events.producer(), self.events.consumer(topic)
        producer.send(topic, b"x").get(timeout=10)
        self.assertEqual(b"x", next(consumer).value)
        self.opened.extend([producer, consumer, self.events.admin])

    def test_2_they_are_closed(self) -> None:
        """They are closed in the next."""
        self.assertEqual(3, len(self.opened))
        self.assertEqual([True] * 3, [client._closed for client in self.opened])

    def test_a_consumer_reads_from_the_start_and_commits_nothing(self) -> None:
        """In the test's own group."""
        consumer = self.events.consumer(self.events.topic("orders"))
        config = consumer.config
        self.assertEqual(self.events.group, config["group_id"])
        self.assertEqual("earliest", config["auto_offset_reset"])
        self.assertFalse(config["enable_auto_commit"])

    def test_the_test_has_the_last_word(self) -> None:
        """Every setting can be another."""
        consumer = self.events.consumer(group_id="another", auto_offset_reset="latest")
        self.assertEqual("another", consumer.config["group_id"])
        self.assertEqual("latest", consumer.config["auto_offset_reset"])
        self.assertEqual(7, self.events.producer(request_timeout_ms=7).config["request_timeout_ms"])

    def test_a_loop_over_a_consumer_ends(self) -> None:
        """When nothing comes for long enough; ten seconds are the default."""
        topic = self.events.topic("orders")
        self.produce(topic, b"1")
        self.assertEqual(10_000, self.events.consumer(topic).config["consumer_timeout_ms"])
        consumer = self.events.consumer(topic, group_id="quick", consumer_timeout_ms=500)
        self.assertEqual([b"1"], [record.value for record in consumer])


class LeftTest(OneBrokerTest):
    """Whatever a test makes on the broker is gone when another begins."""

    kept: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        """A topic of the class itself."""
        super().setUpClass()
        cls.kept = cls.events.topic("kept")
        with cls.events.producer() as producer:
            producer.send(cls.kept, b"for all")

    def test_1_make(self) -> None:
        """Topics by any name, and groups by any name, with committed offsets."""
        self.produce(self.events.topic("own"), b"x")
        self.produce("made-by-the-code-under-test", b"x")
        for group in (self.events.group, "fixed-group"):
            with self.events.consumer(self.kept, group_id=group) as consumer:
                next(consumer)
                consumer.commit()
        topics = self.events.admin.list_topics()
        self.assertIn("made-by-the-code-under-test", topics)
        self.assertIn("fixed-group", [g["group_id"] for g in self.events.admin.list_groups()])

    def test_2_gone(self) -> None:
        """Only the topic of the class is there."""
        topics = {name for name in self.events.admin.list_topics() if not name.startswith("__")}
        self.assertEqual({self.kept}, topics)
        self.assertEqual([], self.events.admin.list_groups())

    def test_3_a_fixed_name_is_new_in_every_test(self) -> None:
        """What the test before wrote to a topic of this name is not there."""
        self.produce("made-by-the-code-under-test", b"of this test")
        self.assertEqual([b"of this test"], self.values("made-by-the-code-under-test", 1))

    def test_4_a_fixed_group_starts_anew_in_every_test(self) -> None:
        """What another test committed does not count, not even on a topic of the class."""
        consumer = self.events.consumer(self.kept, group_id="fixed-group")
        self.assertEqual(b"for all", next(consumer).value)

    def test_5_what_code_makes_that_outlived_its_test_goes_too(self) -> None:
        """Between two tests nobody is looking, so it is looked for when a test begins."""
        with kafka.KafkaProducer(bootstrap_servers=self.events.bootstrap) as stranger:
            type(self).addClassCleanup(stranger.close)
            stranger.send("from-the-past", b"x").get(timeout=10)


class EndingTest(LeakCheckedTestCase):
    """What happens to clients and threads, and what a declaration says that does not run."""

    def test_no_thread_of_a_client_is_left(self) -> None:
        """When the class has ended, the process is as it was."""

        class Opens(ServicesMixin, unittest.TestCase):
            events = Kafka()

            def test_it(self) -> None:
                topic = self.events.topic("orders")
                self.events.producer().send(topic, b"x")
                self.events.consume(topic)
                next(self.events.consumer(topic))
                _ = self.events.admin

        before = set(threading.enumerate())
        self.assert_passes(Opens)
        self.assertEqual(set(), {t for t in threading.enumerate() if t.is_alive()} - before)

    def test_without_its_driver_the_class_says_what_to_install(self) -> None:
        """kafka-python, and for certificates `cryptography`."""

        class Plain(ServicesMixin, unittest.TestCase):
            events = Kafka()

            def test_it(self) -> None: ...

        class Tls(Plain):
            events = Kafka(security="ssl")

        hidden = {"kafka": None, "cryptography": None, "cryptography.x509": None}
        with mock.patch.dict("sys.modules", hidden):
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


class FaultTest(LeakCheckedTestCase):
    """A broker that freezes, dies and comes back."""

    def test_consume_keeps_its_time_when_the_broker_is_frozen(self) -> None:
        """Also a reader that has not read before."""

        class Frozen(ServicesMixin, unittest.TestCase):
            events = Kafka()

            def test_it(self) -> None:
                topic = self.events.topic("orders")
                with self.events.paused():
                    began = time.monotonic()
                    with self.assertRaisesRegex(ServiceError, "0 of 1 records"):
                        self.events.consume(topic, timeout=0.5)
                    self.assertLess(time.monotonic() - began, 5)
                with self.events.producer() as producer:
                    producer.send(topic, b"thawed")
                self.assertEqual(b"thawed", self.events.consume(topic)[0].value)

        self.assert_passes(Frozen)

    def test_a_restarted_broker_has_its_topics(self) -> None:
        """On the same port, and the service's own clients find it again."""

        class Restarts(ServicesMixin, unittest.TestCase):
            events = Kafka()

            def test_it(self) -> None:
                topic = self.events.topic("orders")
                with self.events.producer() as producer:
                    producer.send(topic, b"kept")
                self.events.kill()
                with self.assertRaisesRegex(ServiceError, "'.*-late' could not be made: .*Error"):
                    self.events.topic("late")
                with self.assertRaisesRegex(ServiceError, "the lag of group 'any' cannot be told"):
                    self.events.lag("any", topic)
                self.events.restart()
                self.assertEqual(b"kept", self.events.consume(topic, timeout=20)[0].value)
                self.events.topic("more")

            def test_the_next(self) -> None:
                self.events.topic("orders")

        self.assert_passes(Restarts)

    def test_a_test_after_a_dead_broker_is_told_soon(self) -> None:
        """The error says how it ended, and does not wait for a broker that cannot answer."""

        class Kills(ServicesMixin, unittest.TestCase):
            events = Kafka()

            def test_1_kills(self) -> None:
                self.events.producer()
                self.events.consumer(self.events.topic("orders")).poll(100)
                self.events.kill()

            def test_2_is_told(self) -> None:
                self.fail("it cannot have clean state")

        began = time.monotonic()
        text = self.assert_error(Kills, "events exited with exit code 137")
        self.assertNotIn("it cannot", text)
        self.assertLess(time.monotonic() - began, 60)


if __name__ == "__main__":
    unittest.main()
