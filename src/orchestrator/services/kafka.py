"""`Kafka`: a single broker of the class's own; every test gets topics and a group."""

from __future__ import annotations

import contextlib
import re
import struct
import time
from collections.abc import Mapping  # noqa: TC003 - users read the annotations of options
from dataclasses import field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self

from orchestrator.errors import DeclarationError, ServiceError
from orchestrator.probes import Call, NotReadyError, connect
from orchestrator.services import options
from orchestrator.services.drivers import driver
from orchestrator.services.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    import kafka
    from kafka.consumer.fetcher import ConsumerRecord

    from orchestrator.probes import Probe, Target

_INTERNAL: Final = 19092
_CONTROLLER: Final = 9093
_CLUSTER: Final = "b3JjaGVzdHJhdG9yLTAwMQ"  # 16 bytes in base64, as kafka-storage wants it
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")
# A Metadata request, version 4, for no topic: key, version, correlation id, client id, topics, no.
_METADATA: Final = struct.pack("!hhih2siB", 3, 4, 1, 2, b"id", 0, 0)
_METADATA_HEAD: Final = struct.Struct("!iiii")  # length, correlation id, throttle time, brokers
_POLL: Final = 0.1
# A broker for tests: one node, small, quick to start and to answer.
_SINGLE_NODE: Final = {
    "KAFKA_NODE_ID": "1",
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": f"1@localhost:{_CONTROLLER}",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_INTER_BROKER_LISTENER_NAME": "INTERNAL",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "1",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS": "1",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",  # 3 s by default, paid by every new group
    "KAFKA_LOG_DIRS": "/tmp/kraft-combined-logs",  # noqa: S108 - a path in the container
    "CLUSTER_ID": _CLUSTER,
    "KAFKA_HEAP_OPTS": "-Xms128m -Xmx512m",
    # One collector thread and no second compiler: a broker that lives for seconds starts sooner.
    "KAFKA_JVM_PERFORMANCE_OPTS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto",
}


class Kafka(Service):
    """An Apache Kafka broker in KRaft mode.

    Attributes:
        security: How clients connect: ``"plaintext"``.
        settings: More of server.properties, such as ``{"message.max.bytes": "2000000"}``.
    """

    lock_entry: ClassVar[str] = "kafka"
    container_port: ClassVar[int] = 9092

    security: Literal["plaintext"] = "plaintext"
    settings: Mapping[str, str] = field(default_factory=dict)
    _test: str = options.private("")
    _clients: contextlib.ExitStack | None = options.private(None)
    _topics: list[str] | None = options.private(None)
    _owner: Kafka | None = options.private(None)

    def check_options(self) -> None:
        """Raise DeclarationError for a value that cannot work."""
        options.choice(self, "security", self.security, ("plaintext",))
        options.check_environment(self, "settings", self.settings)

    # The server

    def server_env(self) -> Mapping[str, str]:
        """The image's contract: KAFKA_A_B becomes a.b; the host port is known before create."""
        listeners = {"INTERNAL": _INTERNAL, "EXTERNAL": self.container_port}
        protocols = ",".join(f"{name}:PLAINTEXT" for name in (*listeners, "CONTROLLER"))
        return {
            **_SINGLE_NODE,
            "KAFKA_LISTENERS": ",".join(
                f"{name}://:{port}"
                for name, port in {**listeners, "CONTROLLER": _CONTROLLER}.items()
            ),
            "KAFKA_ADVERTISED_LISTENERS": (
                f"INTERNAL://{self.internal_bootstrap},EXTERNAL://{self.bootstrap}"
            ),
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": protocols,
            **{_variable(name): value for name, value in self.settings.items()},
        }

    def readiness(self) -> Probe:
        """It lists itself as a broker that takes requests."""
        return Call(_lists_a_broker)

    @contextlib.contextmanager
    def isolated(self, test: str) -> Iterator[Self]:
        """A group and topics of the test's own; the topics are deleted after it."""
        with contextlib.ExitStack() as clients:
            topics: list[str] = []
            handle = self.copy_with(_test=test, _clients=clients, _topics=topics, _owner=self)
            try:
                yield handle
            finally:
                clients.close()
                if topics:
                    self.admin.delete_topics(topics)

    def release(self) -> None:
        """Close the admin client."""
        if "admin" in self.__dict__ and self._owner is None:
            self.admin.close()

    # What a test uses

    @property
    def bootstrap(self) -> str:
        """``host:port`` for clients on this machine."""
        return f"{self.host}:{self.port}"

    @property
    def internal_bootstrap(self) -> str:
        """``alias:port`` for other containers of the class."""
        return f"{self.alias}:{_INTERNAL}"

    @property
    def url(self) -> str:
        """The same as `bootstrap`."""
        return self.bootstrap

    @property
    def internal_url(self) -> str:
        """The same as `internal_bootstrap`."""
        return self.internal_bootstrap

    @property
    def group(self) -> str:
        """This test's consumer group."""
        return f"{self._test or self.alias}-group"

    @cached_property
    def admin(self) -> kafka.KafkaAdminClient:
        """A kafka-python admin client; the class's tests share it."""
        if self._owner is not None:
            return self._owner.admin
        return driver("kafka", extra="kafka").KafkaAdminClient(bootstrap_servers=self.bootstrap)

    def topic(self, name: str, partitions: int = 1) -> str:
        """Create a topic of this test and return its full name.

        It can be written to when this returns. It is deleted after the test.

        Raises:
            DeclarationError: Kafka does not allow the name.
        """
        if not _TOPIC.fullmatch(name):
            raise DeclarationError(
                f"{name!r} cannot name a topic: use ASCII letters, digits, '.', '_' and '-'"
            )
        topic = f"{self._test or self.alias}-{name}"
        self.admin.create_topics(
            {topic: {"num_partitions": partitions, "replication_factor": 1}},
            wait_for_metadata=True,
        )
        if self._topics is not None:
            self._topics.append(topic)
        return topic

    def producer(self, **config: Any) -> kafka.KafkaProducer:
        """A kafka-python producer; closed after the test, if the test did not.

        Args:
            config: kafka-python's settings, over ours.
        """
        return self._open("KafkaProducer", bootstrap_servers=self.bootstrap, **config)

    def consumer(self, *topics: str, **config: Any) -> kafka.KafkaConsumer:
        """A kafka-python consumer in this test's group, from the first record on.

        It commits nothing by itself, and is closed after the test, if the test did not.

        Args:
            topics: Full names, as `topic` returns them.
            config: kafka-python's settings, over ours.
        """
        ours = {
            "bootstrap_servers": self.bootstrap,
            "group_id": self.group,
            "auto_offset_reset": "earliest",
            "enable_auto_commit": False,
        }
        return self._open("KafkaConsumer", *topics, **{**ours, **config})

    def consume(self, topic: str, count: int = 1, timeout: float = 10.0) -> list[ConsumerRecord]:
        """Read records from a topic; the next call goes on where this one ended.

        Args:
            topic: The full name, as `topic` returns it.
            count: How many records to wait for.
            timeout: Seconds they have to come.

        Raises:
            ServiceError: Fewer came in time; the message says how many.
        """
        reader = self._readers.get(topic) or self._reader(topic)
        records: list[ConsumerRecord] = []
        started = time.monotonic()
        while len(records) < count:
            left = started + timeout - time.monotonic()
            if left <= 0:
                raise ServiceError(
                    f"{self.alias}: {len(records)} of {count} records came from topic {topic!r} "
                    f"in {timeout:g} s",
                    service=self.alias,
                )
            polled = reader.poll(
                timeout_ms=int(1000 * min(left, _POLL)) or 1, max_records=count - len(records)
            )
            records.extend(record for batch in polled.values() for record in batch)
        return records

    @cached_property
    def _readers(self) -> dict[str, kafka.KafkaConsumer]:
        return {}

    def _reader(self, topic: str) -> kafka.KafkaConsumer:
        """A consumer without a group: joining one costs a quarter of a second."""
        module = driver("kafka", extra="kafka")
        reader = self.consumer(group_id=None)
        partitions = reader.partitions_for_topic(topic) or {0}
        reader.assign([module.TopicPartition(topic, number) for number in partitions])
        self._readers[topic] = reader
        return reader

    def _open(self, kind: str, *arguments: Any, **config: Any) -> Any:
        client = getattr(driver("kafka", extra="kafka"), kind)(*arguments, **config)
        if self._clients is not None:
            self._clients.callback(client.close)
        return client


def _variable(setting: str) -> str:
    """The variable that becomes a setting: Kafka reads _ as a dot, __ as _, ___ as a dash."""
    name = setting.replace("_", "__").replace("-", "___").replace(".", "_")
    return f"KAFKA_{name.upper()}"


def _lists_a_broker(target: Target) -> None:
    """Ask for metadata: a broker that does not take requests yet is not listed."""
    with connect(target) as connection:
        connection.sendall(struct.pack("!i", len(_METADATA)) + _METADATA)
        answer = connection.recv(4096)
    if len(answer) < _METADATA_HEAD.size or _METADATA_HEAD.unpack_from(answer)[-1] < 1:
        raise NotReadyError("the broker does not list itself yet")
