"""Kafka with passwords and certificates, from the host and from another container."""

from __future__ import annotations

import logging
import subprocess
import unittest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import confluent_kafka
import confluent_kafka.admin
import kafka
from kafka.errors import KafkaError, TopicAuthorizationFailedError

from orchestrator import Container, Kafka
from orchestrator.errors import DeclarationError
from tests.support.kafka import OneBrokerTest

if TYPE_CHECKING:
    from collections.abc import Sequence

    _Base = OneBrokerTest
else:
    _Base = object

BIN = "/opt/kafka/bin"
STORES = "ssl.truststore.type=PEM\nssl.truststore.location=/tmp/ca.pem\n"


class Guarded(_Base):
    """What holds for every kind of security; the subclasses say which."""

    sibling = Container(image="kafka", command=["sleep", "600"])
    java: str  # the settings of a Java client, with places for user and password

    def test_clients_of_the_service_work(self) -> None:
        """Producer, consumer, reader and administrator."""
        topic = self.events.topic("orders")
        self.produce(topic, b"1")
        self.assertEqual([b"1"], self.values(topic, 1))
        with self.events.consumer(topic) as consumer:
            self.assertEqual(b"1", next(consumer).value)
        self.assertIn(topic, self.events.admin.list_topics())

    def test_kafka_python_takes_the_settings_as_they_are(self) -> None:
        """Code under test opens clients of its own."""
        topic = self.events.topic("orders")
        with kafka.KafkaProducer(**self.events.client_settings) as producer:
            producer.send(topic, b"1").get(timeout=10)
        self.assertEqual([b"1"], self.values(topic, 1))

    def test_confluent_kafka_takes_the_settings_as_they_are(self) -> None:
        """The C library checks host names and certificates by itself."""
        topic = self.events.topic("orders")
        self.produce(topic, b"1")
        consumer = confluent_kafka.Consumer(
            {
                **self.events.confluent_settings,
                "log_level": 0,
                "group.id": self.events.group,
                "auto.offset.reset": "earliest",
            }
        )
        self.addCleanup(consumer.close)
        consumer.subscribe([topic])
        message = consumer.poll(20)
        assert message is not None
        self.assertEqual(b"1", message.value())

    def test_a_sibling_gets_in_by_the_alias(self) -> None:
        """A Java client in another container, with the same credentials."""
        topic = self.events.topic("orders")
        self.produce(topic, b"from the host")
        self.give_sibling("/tmp/client.properties", self.java_settings())
        files = {name: Path(path).read_text() for name, path in self.events.tls_files.items()}
        self.give_sibling("/tmp/ca.pem", files.get("ssl_cafile", ""))
        keystore = files.get("ssl_keyfile", "") + files.get("ssl_certfile", "")
        self.give_sibling("/tmp/keystore.pem", keystore)
        read = self.sibling.exec(
            [
                f"{BIN}/kafka-console-consumer.sh",
                f"--bootstrap-server={self.events.internal_bootstrap}",
                f"--topic={topic}",
                "--consumer.config=/tmp/client.properties",
                f"--group={self.events.group}",
                "--from-beginning",
                "--max-messages=1",
                "--timeout-ms=20000",
            ]
        )
        self.assertIn("from the host", read.output)

    def java_settings(self) -> str:
        """client.properties."""
        settings = self.events.client_settings
        return self.java.format(
            user=settings.get("sasl_plain_username"),
            password=str(settings.get("sasl_plain_password")),
        )

    def give_sibling(self, path: str, content: str) -> None:
        """Write a file in the other container."""
        script = ["bash", "-c", 'printf "%s" "$1" > "$0"', path, content]
        self.assertEqual(0, self.sibling.exec(script).exit_code)

    def test_a_stranger_stays_out(self) -> None:
        """Without the security, and so without credentials."""
        with self.assertRaises(KafkaError):
            kafka.KafkaAdminClient(
                bootstrap_servers=self.events.bootstrap, bootstrap_timeout_ms=1000
            )

    def test_the_administrator_asks_for_his_own_password(self) -> None:
        """A test's credentials do not open his port, and nobody comes without."""
        address = self.events.admin_settings["bootstrap_servers"]
        settings = {**self.events.admin_settings, "bootstrap_timeout_ms": 1000}
        for wrong in ({"sasl_plain_password": "guess"}, {"security_protocol": "PLAINTEXT"}):
            with self.subTest(wrong), self.assertRaises(KafkaError):
                kafka.KafkaAdminClient(**{**settings, **wrong})
        self.assertTrue(address.startswith("127.0.0.1:"))

    def test_secrets_show_nowhere(self) -> None:
        """Neither in processes, container, logs and labels nor in what is printed of the handle."""
        places = {
            "processes": self.events.exec(["bash", "-c", "cat /proc/[0-9]*/cmdline"]).output,
            "our processes": subprocess.run(
                ["ps", "-ww", "-eo", "args"], check=True, capture_output=True, text=True
            ).stdout,
            "container": self.docker("inspect", self.events.container_id),
            "raw log": self.docker("logs", self.events.container_id),
            "log": self.events.logs(),
            "info": str(self.events.info()),
            "handle": repr(self.events),
            "client settings": str(self.events.client_settings),
            "administrator's settings": str(self.events.admin_settings),
            "confluent settings": str(self.events.confluent_settings),
        }
        secrets = [str(secret) for secret in self.events.secrets()]
        self.assertTrue(secrets)
        for place, content in places.items():
            self.assertTrue(content, place)
            self.assertNotIn("PRIVATE KEY", content, place)
            for secret in secrets:
                self.assertNotIn(secret, content, place)

    def test_drivers_log_no_secret(self) -> None:
        """Not even at the level at which they tell everything."""
        with self.assertLogs("kafka", logging.DEBUG) as logged:
            self.produce(self.events.topic("orders"), b"1")
            _ = self.events.admin.list_topics()
        for secret in self.events.secrets():
            self.assertNotIn(str(secret), "\n".join(logged.output))

    @staticmethod
    def docker(*arguments: str) -> str:
        """What the docker command prints."""
        done = subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True)
        return done.stdout + done.stderr

    def test_acls_are_obeyed_and_gone_after_the_test(self) -> None:
        """What no ACL is about is allowed; the test that makes one has it for itself."""
        topic = self.events.topic("orders")
        self.produce(topic, b"allowed")
        words = kafka.admin
        denial = words.ACL(
            principal="User:test",
            host="*",
            operation=words.ACLOperation.WRITE,
            permission_type=words.ACLPermissionType.DENY,
            resource_pattern=words.ResourcePattern(words.ResourceType.TOPIC, "*"),
        )
        self.assertEqual([], self.acls())
        self.events.admin.create_acls([denial])
        with self.assertRaises(TopicAuthorizationFailedError), self.events.producer() as producer:
            for _ in range(100):
                producer.send(topic, b"denied").get(timeout=10)

    def test_acls_are_gone_in_another_test(self) -> None:
        """Whichever of the two comes first."""
        self.assertEqual([], self.acls())
        self.produce(self.events.topic("orders"), b"allowed")

    def acls(self) -> list[Any]:
        """All ACLs of the broker."""
        words = kafka.admin
        found, _ = self.events.admin.describe_acls(
            words.ACLFilter(
                principal=None,
                host=None,
                operation=words.ACLOperation.ANY,
                permission_type=words.ACLPermissionType.ANY,
                resource_pattern=words.ResourcePatternFilter(
                    words.ResourceType.ANY, None, words.ACLResourcePatternType.ANY
                ),
            )
        )
        return list(found)


class ScramTest(Guarded, OneBrokerTest):
    """A password that is never sent."""

    events = Kafka(security="sasl_plaintext")
    java = (
        "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=SCRAM-SHA-512\nsasl.jaas.config="
        "org.apache.kafka.common.security.scram.ScramLoginModule required "
        'username="{user}" password="{password}";\n'
    )

    def test_a_wrong_password_is_refused(self) -> None:
        """And a wrong user."""
        for wrong in ({"sasl_plain_password": "guess"}, {"sasl_plain_username": "guess"}):
            settings = {**self.events.client_settings, **wrong, "bootstrap_timeout_ms": 2000}
            with self.subTest(wrong), self.assertRaises(KafkaError):
                kafka.KafkaAdminClient(**settings)

    def test_the_user_is_known_after_a_restart(self) -> None:
        """The broker keeps him with its data."""
        topic = self.events.topic("orders")
        self.events.restart()
        self.produce(topic, b"1")
        self.assertEqual([b"1"], self.values(topic, 1, timeout=20))


class PlainTest(Guarded, OneBrokerTest):
    """A password that is sent as it is."""

    events = Kafka(security="sasl_plaintext", mechanism="PLAIN")
    java = (
        "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.jaas.config="
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        'username="{user}" password="{password}";\n'
    )


class ScramTlsTest(Guarded, OneBrokerTest):
    """A password over an encrypted connection, and an option of the user's for the JVM."""

    events = Kafka(
        security="sasl_ssl",
        mechanism="SCRAM-SHA-256",
        env={"KAFKA_OPTS": "-Dorchestrator.test=kept"},
    )
    java = (
        "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-256\nsasl.jaas.config="
        "org.apache.kafka.common.security.scram.ScramLoginModule required "
        f'username="{{user}}" password="{{password}}";\n{STORES}'
    )

    def test_options_for_the_jvm_are_kept(self) -> None:
        """The service adds its own to them."""
        arguments = self.events.exec(["bash", "-c", "tr '\\0' '\\n' < /proc/1/cmdline"]).output
        self.assertIn("-Dorchestrator.test=kept\n", arguments)

    def test_files_of_certificates_serve_clients_that_read_files(self) -> None:
        """As many settings in production name a path."""
        settings = {
            name: value
            for name, value in self.events.client_settings.items()
            if name != "ssl_context"
        }
        topic = self.events.topic("orders")
        with kafka.KafkaProducer(**settings, **self.events.tls_files) as producer:
            producer.send(topic, b"1").get(timeout=10)
        self.assertEqual(["ssl_cafile"], list(self.events.tls_files))


class TlsTest(Guarded, OneBrokerTest):
    """Certificates on both sides, and a name with an underscore."""

    my_events = Kafka(security="ssl")
    events = property(lambda self: self.my_events)
    java = (
        f"security.protocol=SSL\n{STORES}ssl.keystore.type=PEM\n"
        "ssl.keystore.location=/tmp/keystore.pem\n"
    )

    def test_a_client_need_not_show_a_certificate(self) -> None:
        """As most services in production do not ask for one."""
        topic = self.events.topic("orders")
        config = {"security_protocol": "SSL", "ssl_cafile": self.events.tls_files["ssl_cafile"]}
        with kafka.KafkaProducer(bootstrap_servers=self.events.bootstrap, **config) as producer:
            producer.send(topic, b"1").get(timeout=10)

    def test_another_authority_is_not_trusted(self) -> None:
        """A client with the system's certificates does not talk to this broker."""
        with self.assertRaises(KafkaError):
            kafka.KafkaAdminClient(
                bootstrap_servers=self.events.bootstrap,
                security_protocol="SSL",
                bootstrap_timeout_ms=1000,
            )


class RequiredCertificateTest(OneBrokerTest):
    """Who asks for certificates of clients can make them a must."""

    events = Kafka(security="ssl", settings={"ssl.client.auth": "required"})

    def test_a_client_with_a_certificate_gets_in(self) -> None:
        """The service's clients have one."""
        topic = self.events.topic("orders")
        self.produce(topic, b"1")
        self.assertEqual([b"1"], self.values(topic, 1))

    def test_a_client_without_one_does_not(self) -> None:
        """Although it trusts the broker."""
        with self.assertRaises(KafkaError):
            kafka.KafkaAdminClient(
                bootstrap_servers=self.events.bootstrap,
                security_protocol="SSL",
                ssl_cafile=self.events.tls_files["ssl_cafile"],
                bootstrap_timeout_ms=1000,
            )


class DeclaredTest(unittest.TestCase):
    """What cannot be is refused where it is declared."""

    def test_bad_values(self) -> None:
        """Each names the option, and what would do."""
        bad: Sequence[tuple[str, Any, str]] = (
            ("security", "tls", "'plaintext' or 'sasl_plaintext' or 'ssl' or 'sasl_ssl'"),
            ("security", None, "'plaintext'"),
            ("mechanism", "SCRAM", "'SCRAM-SHA-512' or 'SCRAM-SHA-256' or 'PLAIN'"),
            ("strict", "yes", "True or False"),
            ("settings", {"num.partitions": 3}, "expected text, such as '3'"),
            ("settings", {"Num.Partitions": "3"}, "'Num.Partitions'"),
            ("settings", {"listeners": "X://:1"}, "cannot set 'listeners'"),
        )
        for option, value, expected in bad:
            with self.subTest(option, value=value), self.assertRaises(DeclarationError) as caught:
                Kafka(**{option: value})
            self.assertIn(option, str(caught.exception))
            self.assertIn(expected, str(caught.exception))


if __name__ == "__main__":
    unittest.main()
