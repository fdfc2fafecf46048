"""A broker's topics and groups, as its admin client sees them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import ServiceError
from orchestrator.services.kafka_clients import kafka_python

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import kafka

_READY: Final = 10.0
_INTERVAL: Final = 0.002
_OFFSETS: Final = "__consumer_offsets"  # made for the first group
_OF_KAFKA: Final = frozenset(
    {_OFFSETS, "__transaction_state", "__share_group_state", "__cluster_metadata"}
)


def create(
    admin: kafka.KafkaAdminClient,
    topic: str,
    *,
    partitions: int,
    settings: Mapping[str, str],
    service: str,
) -> None:
    """Create a topic; it can be written to and read when this returns.

    Args:
        admin: Creates it.
        topic: Its full name.
        partitions: How many it has.
        settings: Its own settings.
        service: The broker's alias, for the error.

    Raises:
        ServiceError: The broker refused it, or did not make it usable in ten seconds.
    """
    wanted = {"num_partitions": partitions, "replication_factor": 1, "configs": dict(settings)}
    [made] = admin.create_topics({topic: wanted}, raise_errors=False)["topics"]
    if made["error_code"]:
        raise ServiceError(
            f"{service} refused the topic {topic!r}: "
            f"{made['error_message'] or _errors().for_code(made['error_code']).__name__}",
            service=service,
        )
    _await_leaders(admin, topic, partitions=partitions, service=service)


def _await_leaders(
    admin: kafka.KafkaAdminClient, topic: str, *, partitions: int, service: str
) -> None:
    """Ask every partition for its end: the answer comes from the replica that is written to.

    Metadata would not do: the broker publishes it before the replicas are there, and a producer
    that comes in between waits a tenth of a second before it tries again.
    """
    errors = _errors()
    deadline = time.monotonic() + _READY
    while True:
        try:
            offsets(admin, topic, partitions=partitions, which="LATEST")
        except errors.KafkaError as error:
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{service}: the topic {topic!r} cannot be used {_READY:g} s after it was "
                    f"created: {error}",
                    service=service,
                ) from error
            time.sleep(_INTERVAL)
        else:
            return


def partition_count(admin: kafka.KafkaAdminClient, topic: str) -> int:
    """How many partitions a topic has; 0 when it does not exist."""
    [found] = admin.describe_topics([topic])
    return len(found["partitions"])


def offsets(
    admin: kafka.KafkaAdminClient, topic: str, *, partitions: int, which: str
) -> dict[Any, int]:
    """Partition to its first offset (``"EARLIEST"``) or the one after its last (``"LATEST"``)."""
    module = kafka_python()
    spec = module.OffsetSpec[which]
    asked = {module.TopicPartition(topic, number): spec for number in range(partitions)}
    found = admin.list_partition_offsets(asked)
    return {partition: offset.offset for partition, offset in found.items()}


def identity(admin: kafka.KafkaAdminClient) -> tuple[str, int]:
    """The cluster's id, and that of its controller, which is the only broker.

    As the client's metadata has them: its `describe_cluster` fails with brokers before 3.7.
    """
    cluster = admin._manager.cluster  # noqa: SLF001 - there is no other way to them
    return cluster.cluster_id, cluster.controller.node_id


def users_topics(admin: kafka.KafkaAdminClient) -> tuple[frozenset[str], bool]:
    """All topics but those that belong to Kafka itself, and whether there can be groups."""
    topics = frozenset(admin.list_topics())
    return topics - _OF_KAFKA, _OFFSETS in topics


def users_groups(admin: kafka.KafkaAdminClient) -> frozenset[str]:
    """All consumer groups."""
    return frozenset(group["group_id"] for group in admin.list_groups())


def delete_topics(admin: kafka.KafkaAdminClient, topics: Iterable[str]) -> None:
    """Delete topics; one that is gone meanwhile is no error."""
    if names := sorted(topics):
        admin.delete_topics(names, raise_errors=False)


def delete_groups(admin: kafka.KafkaAdminClient, groups: Iterable[str]) -> None:
    """Delete groups; one that still has members stays."""
    if names := sorted(groups):
        admin.delete_groups(names)


def _errors() -> Any:
    return kafka_python().errors
