"""The contract of the kafka image."""

from __future__ import annotations

from typing import ClassVar

from tests.contract.images.case import ImageTest, docker_command

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
    configured: ClassVar[str]
    cluster = "MkU3OEVBNTcwNTJENDM2Qk"

    @classmethod
    def setUpClass(cls) -> None:
        """Have one broker for all that is configured."""
        super().setUpClass()
        extra = {
            "KAFKA_LOG_RETENTION_HOURS": "7",
            "KAFKA_A___B__C": "spelt",
            "KAFKA_HEAP_OPTS": "-Xmx400M",
            "KAFKA_OPTS": "-Xlog:class+path=info -Xlog:cds*=info -Xshare:on",
            "CLUSTER_ID": cls.cluster,
        }
        cls.configured = cls.start(env=COMBINED | extra)

    def ready(self, container: str, *, times: int = 1) -> None:
        """Wait until the broker has said so often that it has started."""

        def started() -> bool:
            self.assertTrue(self.client.inspect_container(container)["State"]["Running"])
            return self.logs(container).count("Kafka Server started") >= times

        self.eventually(started, container)

    def test_declares_its_interface(self) -> None:
        """The image declares its command, port and user."""
        expected = [["/etc/kafka/docker/run"], {"9092/tcp": {}}, "appuser"]
        self.assertEqual(expected, self.config("Cmd", "ExposedPorts", "User"))

    def test_needs_no_variable_and_keeps_its_data(self) -> None:
        """A single broker, as user appuser; what it got is there after a second start."""
        container = self.start()
        self.ready(container)
        # Its tools are a JVM each; the storage's id says as much as a record that is read again.
        show = ("cat", "/tmp/kraft-combined-logs/meta.properties")
        before = self.execute(container, *show)
        self.assertIn("directory.id=", before)
        self.client.restart(container)
        self.ready(container, times=2)
        self.assertEqual(before, self.execute(container, *show))
        self.assertEqual("appuser", self.execute(container, "stat", "-c", "%U", "/proc/1"))
        self.client.stop(container, timeout=30)
        self.assertEqual(143, self.client.inspect_container(container)["State"]["ExitCode"])

    def test_variables_become_properties(self) -> None:
        """KAFKA_A_B becomes a.b, with ___ for a dash and __ for an underscore."""
        self.ready(self.configured)
        lines = self.execute(self.configured, "cat", PROPERTIES).split()
        self.assertIn("log.retention.hours=7", lines)
        self.assertIn("a-b_c=spelt", lines)
        self.assertFalse([line for line in lines if line.startswith("num.partitions")])
        command = self.execute(self.configured, "cat", "/proc/1/cmdline").split("\0")
        self.assertIn("-Xmx400M", command)

    def test_its_storage_is_formatted_with_the_cluster_id(self) -> None:
        """And both JVMs of the first start take their classes from an archive."""
        self.ready(self.configured)
        log = self.logs(self.configured)
        self.assertIn(self.cluster, log)
        for archive in ("storage.jsa", "kafka.jsa"):
            self.assertIn(f"Opened archive /opt/kafka/{archive}", log)

    def test_invalid_settings_end_the_container(self) -> None:
        """Settings that Kafka refuses end the container with Kafka's message."""
        container = self.start(env=COMBINED | {"KAFKA_NODE_ID": "one"})
        self.assert_ends(container, "Invalid value one for configuration")

    def test_listens_where_it_is_advertised(self) -> None:
        """Without KAFKA_LISTENERS the broker listens on each advertised port of every address."""
        container = self.start(env=COMBINED | {"KAFKA_LISTENERS": ""})
        # A combined node needs its controller's listener too, so Kafka itself refuses these.
        self.assert_ends(container, "")
        written = docker_command("cp", f"{container}:{PROPERTIES}", "-").splitlines()
        self.assertIn("listeners=OUT://0.0.0.0:9092,IN://0.0.0.0:29092", written)
