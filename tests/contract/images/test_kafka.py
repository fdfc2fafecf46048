"""The contract of the kafka image."""

from __future__ import annotations

from tests.contract.images.case import ImageTest

COMBINED = {
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_NODE_ID": "1",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_LISTENERS": "OUT://:9092,IN://:29092,CONTROLLER://localhost:9093",
    "KAFKA_ADVERTISED_LISTENERS": "OUT://localhost:9092,IN://localhost:29092",
    "KAFKA_INTER_BROKER_LISTENER_NAME": "IN",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,IN:PLAINTEXT,OUT:PLAINTEXT",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
}
PROPERTIES = "/opt/kafka/config/server.properties"


class KafkaImageTest(ImageTest):
    """The contract of docker.io/apache/kafka; that it advertises what it is told, all our tests."""

    name = "kafka"
    cluster = "MkU3OEVBNTcwNTJENDM2Qk"

    def test_declares_its_interface(self) -> None:
        """The image declares its command, port and user."""
        expected = [["/etc/kafka/docker/run"], {"9092/tcp": {}}, "appuser"]
        self.assertEqual(expected, self.config("Cmd", "ExposedPorts", "User"))

    def test_broker(self) -> None:
        """KAFKA_A_B becomes a.b, ___ a dash and __ an underscore; CLUSTER_ID counts."""
        extra = {
            "KAFKA_LOG_RETENTION_HOURS": "7",
            "KAFKA_A___B__C": "spelt",
            "KAFKA_HEAP_OPTS": "-Xmx400M -XX:TieredStopAtLevel=1",
            "CLUSTER_ID": self.cluster,
        }
        container = self.start(env=COMBINED | extra)
        self.eventually(lambda: "Kafka Server started" in self.logs(container), container)
        lines = self.execute(container, "cat", PROPERTIES).split()
        self.assertIn("log.retention.hours=7", lines)
        self.assertIn("a-b_c=spelt", lines)
        self.assertFalse([line for line in lines if line.startswith("num.partitions")])
        command = self.execute(container, "cat", "/proc/1/cmdline").split("\0")
        self.assertIn("-Xmx400M", command)
        self.assertEqual("appuser", self.execute(container, "stat", "-c", "%U", "/proc/1"))
        self.assertIn(self.cluster, self.logs(container))
