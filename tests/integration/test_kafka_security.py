"""Kafka with passwords and certificates, from the host and from another container."""

from __future__ import annotations

import logging
import subprocess
import unittest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import confluent_kafka
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

STORES = "ssl.truststore.type=PEM\nssl.truststore.location=/tmp/ca.pem\n"


class Secured(_Base):
    """What holds for every kind of security; the subclasses say which."""

    sibling = Container(image="kafka", command=["sleep", "600"])
    java: str  # the settings of a Java client, with places for user and password

    def test_clients_get_in_with_the_settings_as_they_are(self) -> None:
        """The service's own, and those that code under test opens; libraries check host names."""
        topic = self.events.topic("orders")
        self.produce(topic, b"1")
        self.assertEqual([b"1"], self.values(topic, 1))
        with self.events.consumer(topic) as consumer:
            self.assertEqual(b"1", next(consumer).value)
        self.assertIn(topic, self.events.admin.list_topics())
        with kafka.KafkaProducer(**self.events.client_settings) as producer:
            producer.send(topic, b"2").get(timeout=10)
        settings = {**self.events.confluent_settings, "log_level": 0}
        confluent = confluent_kafka.Producer(settings)
        confluent.produce(topic, b"3")
        self.assertEqual(0, confluent.flush(20))
        self.assertEqual([b"2", b"3"], self.values(topic, 2))

    def test_a_sibling_gets_in_by_the_alias(self) -> None:
        """A Java client in another container, with the same credentials."""
        topic = self.events.topic("orders")
        self.produce(topic, b"from the host")
        given = self.events.client_settings
        user, password = given.get("sasl_plain_username"), str(given.get("sasl_plain_password"))
        self.give_sibling("/tmp/client.properties", self.java.format(user=user, password=password))
        files = {name: Path(path).read_text() for name, path in self.events.tls_files.items()}
        self.give_sibling("/tmp/ca.pem", files.get("ssl_cafile", ""))
        keystore = files.get("ssl_keyfile", "") + files.get("ssl_certfile", "")
        self.give_sibling("/tmp/keystore.pem", keystore)
        read = self.sibling.exec(
            [
                "/opt/kafka/bin/kafka-console-consumer.sh",
                f"--bootstrap-server={self.events.internal_bootstrap}",
                f"--topic={topic}",
                "--consumer.config=/tmp/client.properties",
                f"--group={self.events.group}",
                "--from-beginning",
                "--max-messages=1",
                "--timeout-ms=60000",
            ]
        )
        self.assertIn("from the host", read.output)

    def give_sibling(self, path: str, content: str) -> None:
        """Write a file in the other container."""
        script = ["bash", "-c", 'printf "%s" "$1" > "$0"', path, content]
        self.assertEqual(0, self.sibling.exec(script).exit_code)

    def test_a_stranger_stays_out(self) -> None:
        """Without credentials; and nobody but the administrator gets in by its port."""
        strange: list[dict[str, Any]] = [{"bootstrap_servers": self.events.bootstrap}]
        administrator = f"{self.events.host}:{self.events.port_of(9095)}"
        strange += [
            {"bootstrap_servers": administrator},
            {**self.events.client_settings, "bootstrap_servers": administrator},
        ]
        for settings in strange:
            with self.subTest(settings), self.assertRaises(KafkaError):
                kafka.KafkaAdminClient(**settings, bootstrap_timeout_ms=1000)

    def test_secrets_show_nowhere(self) -> None:
        """Neither in processes, container, logs and labels nor in what is printed of the handle."""
        with self.assertLogs("kafka", logging.DEBUG) as logged:
            self.produce(self.events.topic("orders"), b"1")
            _ = self.events.admin.list_topics()
        places = {
            "drivers' logs": "\n".join(logged.output),
            "processes": self.events.exec(["bash", "-c", "cat /proc/[0-9]*/cmdline"]).output,
            "our processes": self.run_command("ps", "-ww", "-eo", "args"),
            "container": self.run_command("docker", "inspect", self.events.container_id),
            "raw log": self.run_command("docker", "logs", self.events.container_id),
            "log": self.events.logs(),
            "info": str(self.events.info()),
            "handle": repr(self.events),
            "client settings": str(self.events.client_settings),
            "confluent settings": str(self.events.confluent_settings),
        }
        secrets = [str(secret) for secret in self.events.secrets()]
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
        of_class = getattr(type(self), "my_events", type(self).events)
        with of_class.isolated("test_one-1") as one, one.producer() as producer:
            topic = one.topic("orders")
            producer.send(topic, b"allowed").get(timeout=10)
            one.admin.create_acls([denial])
            with self.assertRaises(TopicAuthorizationFailedError):
                for _ in range(100):  # it takes a moment to be in force
                    producer.send(topic, b"denied").get(timeout=10)
        with of_class.isolated("test_two-2") as two, two.producer() as producer:
            self.assertEqual([], self.acls(two))
            producer.send(two.topic("orders"), b"allowed").get(timeout=10)

    @staticmethod
    def acls(handle: Kafka) -> list[Any]:
        """All ACLs of the broker."""
        words = kafka.admin
        found, _ = handle.admin.describe_acls(
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


class ScramTest(Secured, OneBrokerTest):
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
        """The broker keeps it with its data."""
        topic = self.events.topic("orders")
        self.events.restart()
        self.produce(topic, b"1")
        self.assertEqual([b"1"], self.values(topic, 1, timeout=20))


class ScramTlsTest(Secured, OneBrokerTest):
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


class TlsTest(Secured, OneBrokerTest):
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


class DeclaredTest(unittest.TestCase):
    """What cannot be is refused where it is declared."""

    def test_bad_values(self) -> None:
        """Each names the option, and what would do."""
        bad: Sequence[tuple[str, Any, str]] = (
            ("security", "tls", "'plaintext' or 'sasl_plaintext' or 'ssl' or 'sasl_ssl'"),
            ("security", None, "'plaintext'"),
            ("mechanism", "SCRAM", "'SCRAM-SHA-512' or 'SCRAM-SHA-256' or 'PLAIN'"),
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
