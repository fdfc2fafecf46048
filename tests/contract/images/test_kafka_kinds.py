"""The contracts of the images that speak Kafka's protocol beside apache/kafka: what they refuse.

That they work with what they accept, tests/integration/test_kafka_images.py shows.
"""

from __future__ import annotations

import json
import tempfile
import unittest
from pathlib import Path
from typing import ClassVar

from tests.contract.images.case import ImageTest, docker


class RefusingTest(ImageTest):
    """A container that ends, and says why; where the lock file in force has the image."""

    name = "kafka"

    @classmethod
    def setUpClass(cls) -> None:
        """Find the image."""
        try:
            super().setUpClass()
        except KeyError:
            raise unittest.SkipTest(f"no image {cls.name!r} is locked here") from None

    def assert_refused(self, container: str, because: str) -> None:
        """Start a container and expect that it ends with a reason in its log."""
        docker("start", container)
        self.assertNotEqual(0, self.wait_exit(container))
        self.assertIn(because, self.logs(container))


class CpKafkaImageTest(RefusingTest):
    """confluentinc/cp-kafka in KRaft mode."""

    name = "cp-kafka"
    env: ClassVar[dict[str, str]] = {
        "CLUSTER_ID": "MkU3OEVBNTcwNTJENDM2Qk",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_NODE_ID": "1",
        "KAFKA_ADVERTISED_LISTENERS": "OUT://localhost:9092",
    }

    def test_declares_its_interface(self) -> None:
        """Command, port and user."""
        self.assertEqual(["/etc/confluent/docker/run"], self.config("Cmd"))
        self.assertIn("9092/tcp", str(self.config("ExposedPorts")))
        self.assertEqual("appuser", self.config("User"))

    def test_wants_its_variables(self) -> None:
        """Each of them."""
        for name, because in (
            ("CLUSTER_ID", "CLUSTER_ID is required"),
            ("KAFKA_ADVERTISED_LISTENERS", "KAFKA_ADVERTISED_LISTENERS is required"),
            ("KAFKA_PROCESS_ROLES", "KAFKA_ZOOKEEPER_CONNECT is required"),
        ):
            with self.subTest(name):
                self.assert_refused(self.create(env=self.env | {name: ""}), because)

    def test_refuses_what_is_deprecated(self) -> None:
        """Addresses are those of the advertised listeners."""
        self.assert_refused(self.create(env=self.env | {"KAFKA_PORT": "9092"}), "is deprecated")

    def test_names_of_listeners_ask_for_files(self) -> None:
        """A listener called SSL wants a key store by its own variables."""
        env = self.env | {"KAFKA_ADVERTISED_LISTENERS": "SSL://localhost:9092"}
        self.assert_refused(self.create(env=env), "KAFKA_SSL_KEYSTORE_FILENAME is required")


class KafkaNativeImageTest(RefusingTest):
    """apache/kafka-native: one executable instead of a JVM and its scripts."""

    name = "kafka-native"

    def test_declares_its_interface(self) -> None:
        """Command, port and user are those of apache/kafka."""
        self.assertEqual(["/etc/kafka/docker/run"], self.config("Cmd"))
        self.assertIn("9092/tcp", str(self.config("ExposedPorts")))
        self.assertEqual("appuser", self.config("User"))

    def test_options_of_a_jvm_are_unknown(self) -> None:
        """What is passed on to it has to be a -D."""
        container = self.create(env={"KAFKA_OPTS": "-XX:+UseSerialGC"})
        self.assert_refused(container, "-XX:+UseSerialGC")


class RedpandaImageTest(RefusingTest):
    """redpandadata/redpanda."""

    name = "redpanda"
    node: ClassVar[dict[str, object]] = {
        "kafka_api": [{"name": "out", "address": "0.0.0.0", "port": 9092}],  # noqa: S104
        "advertised_kafka_api": [{"name": "out", "address": "localhost", "port": 9092}],
    }

    def refused(
        self,
        because: str,
        *,
        flags: tuple[str, ...] = (),
        node: dict[str, object] | None = None,
        cluster: dict[str, object] | None = None,
        env: dict[str, str] | None = None,
        user: str = "root",
    ) -> None:
        """Give Redpanda its files and flags, and expect a reason against them."""
        container = self.create(
            "redpanda",
            "start",
            "--mode=dev-container",
            *flags,
            options=(f"--user={user}",),
            env=env,
        )
        self.write(container, "redpanda.yaml", {"redpanda": {**self.node, **(node or {})}})
        self.write(container, ".bootstrap.yaml", cluster or {})
        self.assert_refused(container, because)

    def write(self, container: str, name: str, content: dict[str, object]) -> None:
        """Write one of the files, as root, before the start."""
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
            file.write(json.dumps(content))
            file.flush()
            Path(file.name).chmod(0o644)
            docker("cp", file.name, f"{container}:/etc/redpanda/{name}")

    def test_wants_to_rewrite_its_file(self) -> None:
        """Whoever may not is refused."""
        self.refused("error writing to temporary file", user="redpanda")

    def test_knows_its_flags(self) -> None:
        """Others are refused."""
        self.refused("unknown flag: --smp2", flags=("--smp2",))

    def test_knows_its_properties(self) -> None:
        """Others are refused."""
        self.refused("no_such_property", cluster={"no_such_property": 1})

    def test_advertises_an_address(self) -> None:
        """Every address is none."""
        told = [{"name": "out", "address": "0.0.0.0", "port": 9092}]  # noqa: S104
        self.refused("ADDR_ANY", node={"advertised_kafka_api": told})

    def test_knows_families_of_mechanisms(self) -> None:
        """SCRAM is one, SCRAM-SHA-256 is none."""
        listeners = [{"name": "out", "port": 9092, "authentication_method": "sasl"}]
        self.refused(
            "no family of mechanisms",
            node={"kafka_api": listeners},
            cluster={"sasl_mechanisms": ["SCRAM-SHA-256"]},
        )

    def test_certificates_as_names_need_tls(self) -> None:
        """They are shown in the handshake."""
        listeners = [{"name": "out", "port": 9092, "authentication_method": "mtls_identity"}]
        self.refused("mtls_identity needs TLS", node={"kafka_api": listeners})

    def test_the_first_user_has_a_password(self) -> None:
        """And perhaps a mechanism."""
        for given in ("admin", "admin:secret:SCRAM"):
            with self.subTest(given):
                self.refused("RP_BOOTSTRAP_USER", env={"RP_BOOTSTRAP_USER": given})
