"""Kafka with passwords and certificates, and with other images (see ci/images/README.md)."""

import logging
import os
import subprocess
import unittest
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import confluent_kafka
import kafka
from kafka.errors import KafkaError, TopicAuthorizationFailedError

from orchestrator import Kafka, Redpanda, ServicesMixin
from orchestrator.images import find_lock
from orchestrator.settings import Settings

TLS = """
security.protocol=SSL
ssl.truststore.type=PEM
ssl.truststore.location=/tmp/ca.pem
ssl.keystore.type=PEM
ssl.keystore.location=/tmp/keystore.pem
"""
QUICK = "KAFKA_JVM_PERFORMANCE_OPTS=-XX:TieredStopAtLevel=1"
CONSUMER = "/opt/kafka/bin/kafka-console-consumer.sh --consumer.config=/tmp/client.properties"


def check_records(case: unittest.TestCase, events: Kafka | Redpanda) -> None:
    """All that a test does with a broker."""
    topic = events.topic("orders", partitions=2)
    with events.producer(transactional_id=f"{events.prefix}writer") as producer:
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(topic, key=b"ada", value=b"1")
        producer.commit_transaction()
    case.assertEqual(b"1", events.consume(topic, timeout=20)[0].value)
    with events.consumer(topic) as consumer:
        case.assertEqual(b"1", next(consumer).value)
        events.wait_for_group(events.group, topic, timeout=20)
        consumer.commit()
    confluent = confluent_kafka.Producer({**events.confluent_settings, "log_level": 0})
    confluent.produce(f"{events.prefix}by-code", b"2")
    case.assertEqual(0, confluent.flush(20))
    case.assertEqual(b"2", events.consume(f"{events.prefix}by-code")[0].value)


class SecurityTest(ServicesMixin, unittest.TestCase):
    """A password and an option of the user's for the JVM; certificates on both sides."""

    scram = Kafka(
        security="sasl_ssl",
        mechanism="SCRAM-SHA-256",
        # The second is one that the image's own command makes something of: it starts the broker.
        env={
            "KAFKA_OPTS": "-Dorchestrator.test=kept",
            "KAFKA_LOG4J_ROOT_LOGLEVEL": "INFO",
            "KAFKA_A___B__C": "spelt",
        },
    )
    # A name with an underscore, which Java does not take.
    my_tls = Kafka(security="ssl")

    def each(self) -> Iterator[Kafka]:
        """Each broker, as a sub-test."""
        for events in (self.scram, self.my_tls):
            with self.subTest(events.alias):
                yield events

    def test_clients_get_in_with_the_settings_as_they_are(self) -> None:
        """The service's own, and those that code under test opens; libraries check host names."""
        for events in self.each():
            check_records(self, events)
            self.assertIn(events.topic("orders", partitions=2), events.admin.list_topics())
            with kafka.KafkaProducer(**events.client_settings) as producer:
                producer.send(events.topic("orders", partitions=2), b"3").get(timeout=10)
            self.assertEqual(b"3", events.consume(events.topic("orders", partitions=2))[0].value)

    def test_a_sibling_gets_in_by_the_alias(self) -> None:
        """A Java client in another container, with the same certificates."""
        topic = self.my_tls.topic("orders")
        with self.my_tls.producer() as producer:
            producer.send(topic, b"from the host")
        files = {name: Path(path).read_text() for name, path in self.my_tls.tls_files.items()}
        self.scram.write_file("/tmp/client.properties", TLS)
        self.scram.write_file("/tmp/ca.pem", files["ssl_cafile"])
        self.scram.write_file("/tmp/keystore.pem", files["ssl_keyfile"] + files["ssl_certfile"])
        asked = (
            f"--bootstrap-server={self.my_tls.internal_bootstrap} --topic={topic} "
            f"--group={self.my_tls.group} --from-beginning --max-messages=1 --timeout-ms=60000"
        )
        read = self.scram.exec(["bash", "-c", f"KAFKA_OPTS= {QUICK} {CONSUMER} {asked}"])
        self.assertIn("from the host", read.output)

    def test_a_stranger_stays_out(self) -> None:
        """Without credentials or trust; and only the administrator gets in by its port."""
        for events in self.each():
            administrator = f"{events.host}:{events.port_of(9095)}"
            for strange in (
                {"bootstrap_servers": events.bootstrap},
                {"bootstrap_servers": events.bootstrap, "security_protocol": "SSL"},
                {"bootstrap_servers": administrator},
                {**events.client_settings, "bootstrap_servers": administrator},
            ):
                with self.assertRaises(KafkaError):
                    kafka.KafkaAdminClient(**strange, bootstrap_timeout_ms=1000)
        for wrong in ({"sasl_plain_password": "guess"}, {"sasl_plain_username": "guess"}):
            settings = {**self.scram.client_settings, **wrong, "bootstrap_timeout_ms": 2000}
            with self.subTest(wrong), self.assertRaises(KafkaError):
                kafka.KafkaAdminClient(**settings)

    def test_secrets_show_nowhere(self) -> None:
        """Neither in processes, container, logs and labels nor in what is printed of the handle."""
        for events in self.each():
            with self.assertLogs("kafka", logging.DEBUG) as logged:
                _ = events.topic("orders"), events.admin.list_topics()
            places = {
                "drivers' logs": "\n".join(logged.output),
                "processes": events.exec(["bash", "-c", "cat /proc/[0-9]*/cmdline"]).output,
                "our processes": self.run_command("ps", "-ww", "-eo", "args"),
                "container": self.run_command("docker", "inspect", events.container_id),
                "raw log": self.run_command("docker", "logs", events.container_id),
                "log": events.logs(),
                "info": str(events.info()),
                "handle": repr(events),
                "client settings": str(events.client_settings),
                "confluent settings": str(events.confluent_settings),
            }
            secrets = [str(secret) for secret in events.secrets()]
            self.assertTrue(secrets)
            for place, content in places.items():
                self.assertTrue(content, place)
                self.assertNotIn("PRIVATE KEY", content, place)
                for secret in secrets:
                    self.assertNotIn(secret, content, place)

    @staticmethod
    def run_command(*argv: str) -> str:
        """What a command prints."""
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        return done.stdout + done.stderr

    def test_acls_are_obeyed_and_gone_after_the_test(self) -> None:
        """What no ACL is about is allowed; the test that makes one has it for itself."""
        words = kafka.admin
        denial = words.ACL(
            principal="User:test",
            host="*",
            operation=words.ACLOperation.WRITE,
            permission_type=words.ACLPermissionType.DENY,
            resource_pattern=words.ResourcePattern(words.ResourceType.TOPIC, "*"),
        )
        of_class = type(self).scram
        with of_class.isolated("test_one-1") as one, one.producer() as producer:
            topic = one.topic("orders")
            producer.send(topic, b"allowed").get(timeout=10)
            one.admin.create_acls([denial])
            with self.assertRaises(TopicAuthorizationFailedError):
                for _ in range(100):  # it takes a moment to be in force
                    producer.send(topic, b"denied").get(timeout=10)
        with of_class.isolated("test_two-2") as two, two.producer() as producer:
            producer.send(two.topic("orders"), b"allowed").get(timeout=10)

    def test_the_user_and_the_jvms_options_are_there_after_a_restart(self) -> None:
        """The broker keeps the user with its data; the service adds its own options to them."""
        topic = self.scram.topic("orders")
        self.scram.restart()
        with self.scram.producer() as producer:
            producer.send(topic, b"1")
        self.assertEqual(b"1", self.scram.consume(topic, timeout=20)[0].value)
        arguments = self.scram.exec(["bash", "-c", "tr '\\0' '\\n' < /proc/1/cmdline"]).output
        self.assertIn("-Dorchestrator.test=kept\n", arguments)
        # As the image's documents tell: _ is a point, ___ a dash and __ an underscore.
        properties = self.scram.read_file("/opt/kafka/config/server.properties").split()
        self.assertIn(b"a-b_c=spelt", properties)

    def test_files_of_certificates_serve_clients_that_read_files(self) -> None:
        """As many settings in production name a path; a client need not show a certificate."""
        scram = dict(self.scram.client_settings)
        del scram["ssl_context"]
        ca_file = self.my_tls.tls_files["ssl_cafile"]
        plain = {"bootstrap_servers": self.my_tls.bootstrap, "security_protocol": "SSL"}
        for events, settings in (
            (self.scram, {**scram, **self.scram.tls_files}),
            (self.my_tls, {**plain, **self.my_tls.tls_files}),
            (self.my_tls, {**plain, "ssl_cafile": ca_file}),
        ):
            with self.subTest([*settings]), kafka.KafkaProducer(**settings) as producer:
                producer.send(events.topic("orders"), b"1").get(timeout=10)


def image_of(entry: str, reference: str) -> str:
    """An entry of the lock file in force, else the official image, where a registry has it."""
    return entry if entry in find_lock(Settings.from_environment()).entries else reference


class ImagesTest(ServicesMixin, unittest.TestCase):
    """One and the same test passes with each of them, with what security it offers, over IPv6."""

    # SCRAM came to KRaft with this version of Kafka.
    confluent = Kafka(
        image=image_of("cp-kafka", "docker.io/confluentinc/cp-kafka:7.5.3"),
        security="sasl_plaintext",
    )
    # Passwords come from a file that an option of its command line names.
    native = Kafka(
        image=image_of("kafka-native", "docker.io/apache/kafka-native:4.1.1"),
        security="sasl_ssl",
        mechanism="PLAIN",
    )
    panda = Redpanda()
    safe_panda = Redpanda(security="sasl_ssl")

    @classmethod
    def setUpClass(cls) -> None:
        """Official images that no lock file has may run; ports are published on another address."""
        environ = {"ORCHESTRATOR_UNLOCKED": "allow", "ORCHESTRATOR_HOST": "::1"}
        cls.enterClassContext(mock.patch.dict(os.environ, environ))
        super().setUpClass()

    def test_1_records_groups_and_transactions(self) -> None:
        """By the service's own clients, and by another library's."""
        for events in (self.confluent, self.native, self.panda, self.safe_panda):
            with self.subTest(events.alias):
                self.assertEqual(f"[::1]:{events.port}", events.bootstrap)
                check_records(self, events)

    def test_2_what_another_test_made_is_gone(self) -> None:
        """And each tells what it is."""
        for events, version in (
            (self.confluent, r"^Kafka 3\.5"),
            (self.native, r"^Kafka 4"),
            (self.panda, "^Redpanda v"),
            (self.safe_panda, "^Redpanda v"),
        ):
            with self.subTest(events.alias):
                topics = [name for name in events.admin.list_topics() if name[0] != "_"]
                self.assertEqual([], topics)
                self.assertEqual([], events.admin.list_groups())
                info = events.info()
                self.assertRegex(str(info["server"]), version)
                self.assertTrue(info["cluster"])
