"""`KafkaService`: what a test can do with a broker that speaks Kafka's protocol."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import DeclarationError, ServiceError
from orchestrator.services import kafka_groups, kafka_topics
from orchestrator.services.kafka_clients import kafka_python
from orchestrator.services.kafka_handle import KafkaHandle
from orchestrator.services.once import locked_property

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import kafka
    from kafka.consumer.fetcher import ConsumerRecord

_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")


class KafkaService(KafkaHandle):
    """A broker: topics, a group and clients for each test; subclasses say how it is started."""

    @property
    def group(self) -> str:
        """This test's consumer group."""
        return f"{self.prefix}group"

    @locked_property
    def admin(self) -> kafka.KafkaAdminClient:
        """A kafka-python admin client; closed after the test."""
        return self.opened.open("KafkaAdminClient")

    def topic(
        self, name: str, partitions: int = 1, *, settings: Mapping[str, str] | None = None
    ) -> str:
        """Create a topic of this test and return its full name.

        It can be written to when this returns, and is gone when the next test begins. Asked for a
        second time in one test, it is the same topic.

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
        with self._lock.held():
            if topic not in self._created:
                _check_partitions(topic, partitions)
                with self._told(f"the topic {topic!r} could not be made"):
                    kafka_topics.create(
                        self.control,
                        topic,
                        partitions=partitions,
                        settings=settings or {},
                        service=self.alias,
                    )
                self._created[topic] = partitions, dict(settings or {})
        had, theirs = self._created[topic]
        if had != partitions:
            raise DeclarationError(
                f"{topic!r} has {had} partitions in this test already, and cannot have {partitions}"
            )
        if settings is not None and dict(settings) != theirs:
            raise DeclarationError(
                f"{topic!r} has the settings {theirs} in this test already, and cannot have "
                f"{dict(settings)}"
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
        if not isinstance(timeout, (int, float)) or not timeout >= 0:
            raise DeclarationError(f"consume(timeout={timeout!r}) cannot be used: expected seconds")
        self._check_own("topic", topic)
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
        why = f": {cause}" if cause else ""
        if not cause and not kafka_topics.partition_count(self.control, topic):
            why = ": there is no such topic"
        raise ServiceError(
            f"{self.alias}: {len(records)} of {count} records came from topic {topic!r} in "
            f"{timeout:g} s{why}",
            service=self.alias,
        ) from cause

    def lag(self, group: str, topic: str) -> int:
        """How many records of a topic a consumer group has not committed yet, now.

        Args:
            group: Its full name, such as `group`.
            topic: The full name, as `topic` returns it.

        Raises:
            ServiceError: There is no such topic.
        """
        with self._told(f"the lag of group {group!r} cannot be told"):
            return kafka_groups.lag(self.control, group, topic, service=self.alias)

    def wait_for_group(
        self, group: str, topic: str, *, lag: int | None = None, timeout: float = 10.0
    ) -> None:
        """Wait for a consumer group of the code under test.

        Args:
            group: Its full name.
            topic: The full name, as `topic` returns it.
            lag: Wait until the group has committed all records but so many. Without it, wait until
                every partition has a consumer: what is produced from then on reaches one.
            timeout: Seconds it has.

        Raises:
            ServiceError: It was not so in time; the message says how it was.
        """
        with self._told(f"group {group!r} was not waited for"):
            if lag is None:
                kafka_groups.wait_until_assigned(
                    self.control, group, topic, timeout=timeout, service=self.alias
                )
            else:
                kafka_groups.wait_until_behind(
                    self.control, group, topic, at_most=lag, timeout=timeout, service=self.alias
                )

    @locked_property
    def _created(self) -> dict[str, tuple[int, dict[str, str]]]:
        """This handle's topics: how many partitions each has, and its settings."""
        return {}

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """What kafka-python says of a question of ours, such as that nobody answers."""
        try:
            yield
        except kafka_python().errors.KafkaError as error:
            raise ServiceError(f"{self.alias}: {what}: {error}", service=self.alias) from error

    def _check_own(self, kind: str, name: str) -> None:
        """Say of a strict test what the broker would say too, but who owns the name as well."""
        shared = f"{self.alias}-"
        if self.strict and self._test and not name.startswith((self.prefix, shared)):
            raise ServiceError(
                f"{self.alias}: {self.fence.trespass(self._test, kind, name)}", service=self.alias
            )


def _check_partitions(topic: str, partitions: int) -> None:
    if not isinstance(partitions, int) or isinstance(partitions, bool) or partitions < 1:
        raise DeclarationError(
            f"{topic!r} cannot have {partitions!r} partitions: expected 1 or more"
        )
