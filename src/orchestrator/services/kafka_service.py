"""`KafkaService`: what every broker that speaks Kafka's protocol gives to a test."""

from __future__ import annotations

import contextlib
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from orchestrator.errors import DeclarationError, ServiceError
from orchestrator.services import kafka_topics, options
from orchestrator.services.kafka_clients import Clients, kafka_python
from orchestrator.services.kafka_isolation import Baseline
from orchestrator.services.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import kafka
    from kafka.consumer.fetcher import ConsumerRecord

    from orchestrator.services.runtime import Runtime

_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")


class KafkaService(Service):
    """A broker: topics, a group and clients for each test; subclasses say how it is started."""

    internal_port: ClassVar[int] = 0

    _test: str = options.private("")
    _clients: Clients = options.private(None)
    _baseline: Baseline = options.private(None)
    _topics: dict[str, int] = options.private(None)
    _owner: KafkaService | None = options.private(None)

    def bound(self, runtime: Runtime, /, **changes: Any) -> Self:
        """The handle of a class, with clients of its own."""
        handle = super().bound(runtime, **changes)
        return handle.copy_with(
            _clients=Clients({"bootstrap_servers": handle.bootstrap}),
            _baseline=Baseline(),
            _topics={},
        )

    def prepare(self) -> None:
        """Connect; the tests of the class share the connection that creates their topics."""
        self.control.describe_cluster()

    @contextlib.contextmanager
    def isolated(self, test: str) -> Iterator[Self]:
        """A group and topics of the test's own; whatever it made on the broker is deleted."""
        handle = self.copy_with(
            _test=test,
            _clients=Clients({"bootstrap_servers": self.bootstrap}),
            _topics={},
            _owner=self,
        )
        with self._baseline.restored(self.control), contextlib.ExitStack() as ending:
            ending.callback(handle.release)
            yield handle

    def release(self) -> None:
        """Close the clients that were opened through this handle."""
        if self._clients is not None:
            self._clients.close()

    # What a test uses

    @property
    def bootstrap(self) -> str:
        """``host:port`` for clients on this machine."""
        return f"{self.host}:{self.port}"

    @property
    def internal_bootstrap(self) -> str:
        """``alias:port`` for other containers of the class."""
        return f"{self.alias}:{self.internal_port}"

    @property
    def url(self) -> str:
        """The same as `bootstrap`."""
        return self.bootstrap

    @property
    def internal_url(self) -> str:
        """The same as `internal_bootstrap`."""
        return self.internal_bootstrap

    @property
    def prefix(self) -> str:
        """What the names of this test's topics and groups begin with."""
        return f"{self._test or self.alias}-"

    @property
    def group(self) -> str:
        """This test's consumer group."""
        return f"{self.prefix}group"

    @cached_property
    def admin(self) -> kafka.KafkaAdminClient:
        """A kafka-python admin client; closed after the test."""
        return self.opened.open("KafkaAdminClient")

    def topic(
        self, name: str, partitions: int = 1, *, settings: Mapping[str, str] | None = None
    ) -> str:
        """Create a topic of this test and return its full name.

        It can be written to when this returns, and is deleted after the test. Asked for a second
        time in one test, it is the same topic.

        Args:
            name: A short name; the full one begins with `prefix`.
            partitions: How many.
            settings: The topic's own, such as ``{"cleanup.policy": "compact"}``.

        Raises:
            DeclarationError: Kafka does not allow the name or the number of partitions.
            ServiceError: The broker refused it.
        """
        if not (isinstance(name, str) and _TOPIC.fullmatch(name)):
            raise DeclarationError(
                f"{name!r} cannot name a topic: use ASCII letters, digits, '.', '_' and '-'"
            )
        topic = f"{self.prefix}{name}"
        if topic not in self._topics:
            _check_partitions(topic, partitions)
            kafka_topics.create(
                self.control,
                topic,
                partitions=partitions,
                settings=settings or {},
                service=self.alias,
            )
            self._topics[topic] = partitions
        elif self._topics[topic] != partitions:
            raise DeclarationError(
                f"{topic!r} has {self._topics[topic]} partitions in this test already, and cannot "
                f"have {partitions}"
            )
        return topic

    def producer(self, **config: Any) -> kafka.KafkaProducer:
        """A kafka-python producer; closed after the test, if the test did not.

        It waits ten seconds at most for the broker, and twenty until a record is delivered.

        Args:
            config: kafka-python's settings, over ours.
        """
        return self.opened.open("KafkaProducer", **config)

    def consumer(self, *topics: str, **config: Any) -> kafka.KafkaConsumer:
        """A kafka-python consumer in this test's group, from the first record on.

        It commits nothing by itself, and is closed after the test, if the test did not. A loop
        over it ends when nothing came for ten seconds.

        Args:
            topics: Full names, as `topic` returns them.
            config: kafka-python's settings, over ours.
        """
        ours = {
            "group_id": self.group,
            "auto_offset_reset": "earliest",
            "enable_auto_commit": False,
        }
        return self.opened.open("KafkaConsumer", *topics, **{**ours, **config})

    def consume(self, topic: str, count: int = 1, timeout: float = 10.0) -> list[ConsumerRecord]:
        """Read records from a topic; the next call goes on where this one ended.

        Records of a transaction are read when it is committed. What came too late, or was too
        little, is there for the next call.

        Args:
            topic: The full name, as `topic` returns it; it may be created meanwhile.
            count: How many records to wait for.
            timeout: Seconds they have to come.

        Raises:
            ServiceError: Fewer came in time; the message says how many.
        """
        if not isinstance(count, int) or count < 1:
            raise DeclarationError(f"consume(count={count!r}) cannot be used: expected 1 or more")
        reader = self.opened.reader(topic)
        cause: Exception | None = None
        try:
            records = reader.read(
                count,
                timeout=timeout,
                partitions=lambda: kafka_topics.partition_count(self.control, topic),
            )
        except kafka_python().errors.KafkaError as error:
            records, cause = [], error
        if len(records) == count:
            return records
        why = f": {type(cause).__name__}: {cause}" if cause else ""
        if not cause and not kafka_topics.partition_count(self.control, topic):
            why = ": there is no such topic"
        raise ServiceError(
            f"{self.alias}: {len(records)} of {count} records came from topic {topic!r} in "
            f"{timeout:g} s{why}",
            service=self.alias,
        ) from cause

    @property
    def opened(self) -> Clients:
        """The clients that were opened through this handle."""
        _ = self.running  # says what is wrong with a declaration that is not running
        return self._clients

    @cached_property
    def control(self) -> kafka.KafkaAdminClient:
        """The admin client of the class's handle, for what the service does itself."""
        if self._owner is not None:
            return self._owner.control
        return self.opened.open("KafkaAdminClient", retry_backoff_ms=5)


def _check_partitions(topic: str, partitions: int) -> None:
    if not isinstance(partitions, int) or isinstance(partitions, bool) or partitions < 1:
        raise DeclarationError(
            f"{topic!r} cannot have {partitions!r} partitions: expected 1 or more"
        )
