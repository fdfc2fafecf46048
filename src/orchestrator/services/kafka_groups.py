"""How far a consumer group has come."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import ServiceError
from orchestrator.services import kafka_topics
from orchestrator.services.kafka_clients import kafka_python

if TYPE_CHECKING:
    from collections.abc import Callable

    import kafka

_INTERVAL: Final = 0.015
_ABSENT: Final = "absent"


def lag(admin: kafka.KafkaAdminClient, group: str, topic: str, *, service: str) -> int:
    """How many records of a topic a group has not committed yet.

    Raises:
        ServiceError: There is no such topic.
    """
    partitions = _partitions(admin, topic, service=service)
    ends = kafka_topics.offsets(admin, topic, partitions=partitions, which="LATEST")
    committed = _committed(admin, group, list(ends))
    if len(committed) < len(ends):
        starts = kafka_topics.offsets(admin, topic, partitions=partitions, which="EARLIEST")
        committed = {**starts, **committed}
    return sum(max(0, end - committed[partition]) for partition, end in ends.items())


def wait_until_assigned(
    admin: kafka.KafkaAdminClient, group: str, topic: str, *, timeout: float, service: str
) -> None:
    """Return when every partition of a topic has a consumer of a group."""

    def missing() -> str | None:
        partitions = _partitions(admin, topic, service=service)
        state, assigned = _assignment(admin, group, topic, partitions=partitions)
        if assigned == partitions:
            return None
        return f"is {state}, with {assigned} of {partitions} partitions assigned"

    _wait(missing, f"{service}: group {group!r} on topic {topic!r}", timeout, service=service)


def wait_until_behind(
    admin: kafka.KafkaAdminClient,
    group: str,
    topic: str,
    *,
    at_most: int,
    timeout: float,
    service: str,
) -> None:
    """Return when a group has committed all records of a topic but so many."""

    def missing() -> str | None:
        behind = lag(admin, group, topic, service=service)
        if behind <= at_most:
            return None
        return f"is {behind} records behind, where {at_most} were asked for,"

    _wait(missing, f"{service}: group {group!r} on topic {topic!r}", timeout, service=service)


def _wait(missing: Callable[[], str | None], who: str, timeout: float, *, service: str) -> None:
    """Wait until nothing is missing; what is, is said of whom it is missing from."""
    deadline = time.monotonic() + timeout
    while why := missing():
        if time.monotonic() > deadline:
            raise ServiceError(f"{who} {why} after {timeout:g} s", service=service)
        time.sleep(_INTERVAL)


def _partitions(admin: kafka.KafkaAdminClient, topic: str, *, service: str) -> int:
    if partitions := kafka_topics.partition_count(admin, topic):
        return partitions
    raise ServiceError(f"{service}: there is no topic {topic!r}", service=service)


def _committed(admin: kafka.KafkaAdminClient, group: str, partitions: list[Any]) -> dict[Any, int]:
    """Partition to the offset the group has committed, where it has."""
    if _listed(admin, group) is None:
        return {}
    found = admin.list_group_offsets({group: partitions})[group]
    return {partition: offset.offset for partition, offset in found.items() if offset.offset >= 0}


def _assignment(
    admin: kafka.KafkaAdminClient, group: str, topic: str, *, partitions: int
) -> tuple[str, int]:
    """The group's state, and how many partitions of the topic its members have."""
    listed = _listed(admin, group)
    if listed is None:
        return _ABSENT, 0
    state: str = listed["group_state"]
    if listed.get("group_type") == "consumer":  # KIP-848: the broker assigns, and tells no more
        return state, partitions if state == "Stable" else 0
    described = admin.describe_groups([group])[group]
    mine = {
        number
        for member in described["members"]
        if state == "Stable" and member["member_assignment"]
        for assigned in member["member_assignment"]["assigned_partitions"]
        if assigned["topic"] == topic
        for number in assigned["partitions"]
    }
    return state, len(mine)


def _listed(admin: kafka.KafkaAdminClient, group: str) -> dict[str, Any] | None:
    """A group as the broker lists it; its coordinator cannot be asked before there is one."""
    errors = kafka_python().errors
    try:
        return next((each for each in admin.list_groups() if each["group_id"] == group), None)
    except errors.CoordinatorLoadInProgressError:
        return None
