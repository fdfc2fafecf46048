"""The contract of the kafka image."""

from __future__ import annotations

from typing import ClassVar

from tests.contract.images.case import ImageTest, docker


class KafkaImageTest(ImageTest):
    """The contract of docker.io/apache/kafka."""

    name = "kafka"
    properties = "/opt/kafka/config/server.properties"
    combined: ClassVar[dict[str, str]] = {
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

    def tool(self, container: str, name: str, *arguments: str) -> str:
        """Run one of the image's command line tools against the broker."""
        server = ("--bootstrap-server", "localhost:9092")
        return self.execute(container, f"/opt/kafka/bin/kafka-{name}.sh", *server, *arguments)

    def ready(self, container: str) -> None:
        """Wait until the broker says that it has started."""

        def started() -> bool:
            if self.state(container, "Status") == "exited":
                self.fail(self.logs(container))
            log = docker("logs", f"--since={self.state(container, 'StartedAt')}", container).stdout
            return "Kafka Server started" in log

        self.eventually(started, container)

    def test_declares_its_interface(self) -> None:
        """The image declares its command, port and user."""
        self.assertEqual(["/etc/kafka/docker/run"], self.config("Cmd"))
        self.assertEqual({"9092/tcp": {}}, self.config("ExposedPorts"))
        self.assertEqual("appuser", self.config("User"))

    def test_starts_without_any_variable(self) -> None:
        """Without any variable a single broker starts, produces and consumes."""
        container = self.start()
        self.ready(container)
        self.tool(container, "topics", "--create", "--topic", "t")
        script = (
            "echo hello | /opt/kafka/bin/kafka-console-producer.sh "
            "--bootstrap-server localhost:9092 --topic t"
        )
        self.execute(container, "sh", "-c", script)
        consume = (
            "--topic",
            "t",
            "--from-beginning",
            "--max-messages",
            "1",
            "--timeout-ms",
            "30000",
        )
        self.assertEqual("hello", self.tool(container, "console-consumer", *consume))

    def test_variables_become_properties(self) -> None:
        """KAFKA_A_B becomes a.b, with ___ for a dash and __ for an underscore."""
        extra = {
            "KAFKA_LOG_RETENTION_HOURS": "7",
            "KAFKA_A___B__C": "spelt",
            "KAFKA_HEAP_OPTS": "-Xmx400M",
        }
        container = self.start(env=self.combined | extra)
        self.ready(container)
        lines = self.execute(container, "cat", self.properties).split()
        self.assertIn("log.retention.hours=7", lines)
        self.assertIn("a-b_c=spelt", lines)
        self.assertFalse([line for line in lines if line.startswith("num.partitions")])
        command = self.execute(container, "cat", "/proc/1/cmdline").split("\0")
        self.assertIn("-Xmx400M", command)

    def test_advertised_listener(self) -> None:
        """The broker tells its clients the address that the environment gives."""
        listeners = "OUT://elsewhere:9092,IN://localhost:29092"
        container = self.start(
            options=("--add-host=elsewhere:127.0.0.1",),
            env=self.combined | {"KAFKA_ADVERTISED_LISTENERS": listeners},
        )
        self.ready(container)
        versions = self.tool(container, "broker-api-versions")
        self.assertEqual("elsewhere:9092 (id: 1", versions.partition(" rack")[0])

    def test_listens_where_it_is_advertised(self) -> None:
        """Without KAFKA_LISTENERS the broker listens on each advertised port of every address."""
        container = self.start(env=self.combined | {"KAFKA_LISTENERS": ""})
        # A combined node needs its controller's listener too, so Kafka itself refuses these.
        self.assertNotEqual(0, self.wait_exit(container))
        written = docker("cp", f"{container}:{self.properties}", "-").stdout.splitlines()
        self.assertIn("listeners=OUT://0.0.0.0:9092,IN://0.0.0.0:29092", written)

    def test_second_start_keeps_the_data(self) -> None:
        """A second start of the container finds its storage formatted and keeps its topics."""
        container = self.start(env=self.combined)
        self.ready(container)
        self.tool(container, "topics", "--create", "--topic", "kept")
        docker("restart", container)
        self.ready(container)
        self.assertEqual("kept", self.tool(container, "topics", "--list"))

    def test_cluster_id(self) -> None:
        """CLUSTER_ID is the id the storage is formatted with."""
        container = self.start(env=self.combined | {"CLUSTER_ID": "MkU3OEVBNTcwNTJENDM2Qk"})
        self.ready(container)
        self.assertIn("MkU3OEVBNTcwNTJENDM2Qk", self.logs(container))

    def test_invalid_settings_end_the_container(self) -> None:
        """Settings that Kafka refuses end the container with Kafka's message."""
        container = self.start(env=self.combined | {"KAFKA_NODE_ID": "one"})
        self.assertNotEqual(0, self.wait_exit(container))
        self.assertIn("Invalid value one for configuration", self.logs(container))

    def test_class_data_archives_are_used(self) -> None:
        """Both JVMs of the first start take their classes from an archive."""
        env = self.combined | {"KAFKA_OPTS": "-Xlog:class+path=info -Xlog:cds*=info -Xshare:on"}
        container = self.start(env=env)
        self.ready(container)
        log = self.logs(container)
        for archive in ("storage.jsa", "kafka.jsa"):
            self.assertIn(f"Opened archive /opt/kafka/{archive}", log)

    def test_broker_runs_as_appuser(self) -> None:
        """The broker is process 1, belongs to appuser and ends with `docker stop`."""
        container = self.start(env=self.combined)
        self.ready(container)
        self.assertEqual("appuser", self.execute(container, "stat", "-c", "%U", "/proc/1"))
        docker("stop", "--time=30", container)
        self.assertEqual("143", self.state(container, "ExitCode"))
