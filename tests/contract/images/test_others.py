"""The contracts of the other images: of those that speak Kafka's protocol, what they refuse.

That they work with what they accept, tests/integration/test_kafka_images.py shows.
"""

from __future__ import annotations

import json
import unittest
from typing import Any, ClassVar

from tests.contract.images.case import ImageTest


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

    def assert_refused(self, because: str, *arguments: str, **options: Any) -> None:
        """Start a container and expect that it ends with a reason in its log."""
        with self.subTest(because):
            self.assert_ends(self.start(*arguments, **options), because)


class CpKafkaImageTest(RefusingTest):
    """confluentinc/cp-kafka in KRaft mode."""

    name = "cp-kafka"
    env: ClassVar[dict[str, str]] = {
        "CLUSTER_ID": "MkU3OEVBNTcwNTJENDM2Qk",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_NODE_ID": "1",
        "KAFKA_ADVERTISED_LISTENERS": "OUT://localhost:9092",
    }

    def test_wants_its_variables_and_no_others(self) -> None:
        """A listener called SSL wants a key store by its own variables."""
        for changed, because in (
            ({"CLUSTER_ID": ""}, "CLUSTER_ID is required"),
            (
                {"KAFKA_ADVERTISED_LISTENERS": "SSL://localhost:9092"},
                "KAFKA_SSL_KEYSTORE_FILENAME is required",
            ),
        ):
            self.assert_refused(because, env=self.env | changed)


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
        *flags: str,
        node: dict[str, object] | None = None,
        cluster: dict[str, object] | None = None,
        user: str = "root",
        **options: Any,
    ) -> None:
        """Give Redpanda its files and flags, and expect a reason against them."""
        files = {
            "/etc/redpanda/redpanda.yaml": json.dumps({"redpanda": {**self.node, **(node or {})}}),
            "/etc/redpanda/.bootstrap.yaml": json.dumps(cluster or {}),
        }
        command = ("redpanda", "start", "--mode=dev-container", *flags)
        run_as = (f"--user={user}",)
        self.assert_refused(because, *command, options=run_as, files=files, **options)

    def test_knows_its_flags_and_properties(self) -> None:
        """Others are refused, and so is every address as one to tell."""
        self.refused("unknown flag: --smp2", "--smp2")
        self.refused("no_such_property", cluster={"no_such_property": 1})
        told = [{"name": "out", "address": "0.0.0.0", "port": 9092}]  # noqa: S104
        self.refused("ADDR_ANY", node={"advertised_kafka_api": told})

    def test_security_has_to_fit_together(self) -> None:
        """SCRAM is a family of mechanisms, the first user has a password, the file is its own."""
        listeners = [{"name": "out", "port": 9092, "authentication_method": "sasl"}]
        cluster: dict[str, object] = {"sasl_mechanisms": ["SCRAM-SHA-256"]}
        self.refused("no family of mechanisms", node={"kafka_api": listeners}, cluster=cluster)
        self.refused("RP_BOOTSTRAP_USER", env={"RP_BOOTSTRAP_USER": "admin"})
        self.refused("error writing to temporary file", user="redpanda")
