"""What is on a broker: topics, groups and ACLs, as its administrator sees and changes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import ServiceError
from orchestrator.probes.waiting import poll
from orchestrator.services.kafka.clients import kafka_python
from orchestrator.services.once import driver

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import kafka

_USABLE: Final = 10.0
_INTERVAL: Final = 0.002
_OFFSETS: Final = "__consumer_offsets"  # made for the first group
_OF_KAFKA: Final = frozenset(
    {_OFFSETS, "__transaction_state", "__share_group_state", "__cluster_metadata"}
)


@dataclass(frozen=True, kw_only=True)
class _Snapshot:
    """What is there at one moment, but for what belongs to Kafka itself."""

    topics: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    acls: frozenset[kafka.admin.ACL] = frozenset()


class BrokerState:
    """The topics, groups and ACLs of one broker, by an `admin` client that may do everything.

    Only a broker with an authorizer can be asked for ACLs. Errors name the broker, `service`. Of a
    broker that others use, too, it sees only what begins with `prefix`.
    """

    def __init__(
        self, admin: kafka.KafkaAdminClient, *, service: str, has_acls: bool, prefix: str = ""
    ) -> None:
        self.admin = admin
        self._service = service
        self._has_acls = has_acls
        self._prefix = prefix
        self._baseline: _Snapshot | None = None

    # What tests leave behind

    def restore(self) -> None:
        """Delete what was not there at the first call, which is before the class's first test.

        Whatever else is there an earlier test has made, or code that outlived it, by any name.
        """
        if self._baseline is None:
            self._baseline = self._snapshot()
        else:
            self._delete_all_but(self._baseline)

    def clear(self) -> None:
        """Delete all topics, groups and ACLs."""
        self._delete_all_but(_Snapshot())

    def _snapshot(self) -> _Snapshot:
        topics = frozenset(self.admin.list_topics())
        groups = self.admin.list_groups() if _OFFSETS in topics else []
        acls = self._acls() if self._has_acls else frozenset()
        return _Snapshot(
            topics=self._own(topics) - _OF_KAFKA,
            groups=self._own(group["group_id"] for group in groups),
            acls=frozenset(
                acl for acl in acls if acl.resource_pattern.resource_name.startswith(self._prefix)
            ),
        )

    def _own(self, names: Iterable[str]) -> frozenset[str]:
        return frozenset(name for name in names if name.startswith(self._prefix))

    def _delete_all_but(self, kept: _Snapshot) -> None:
        """What is gone meanwhile is no error."""
        found = self._snapshot()
        if topics := sorted(found.topics - kept.topics):
            self.admin.delete_topics(topics, raise_errors=False)
        if groups := sorted(found.groups - kept.groups):
            self._delete_groups(groups)
        if acls := list(found.acls - kept.acls):
            self.admin.delete_acls(acls)

    def _delete_groups(self, groups: Sequence[str]) -> None:
        """Delete groups, and first the members of those that a consumer has not left.

        The broker would keep such members for minutes (45 s after it was killed), and the next test
        would wait for them in a group of that name.
        """
        answers = self.admin.delete_groups(groups)  # by group, an error's name
        if used := [name for name, why in answers.items() if "NonEmptyGroup" in str(why)]:
            member = driver("kafka.admin", extra="kafka").MemberToRemove
            for name, described in self.admin.describe_groups(used).items():
                members = [member(each["member_id"]) for each in described["members"]]
                self.admin.remove_group_members(name, members)
            self.admin.delete_groups(used)

    def _acls(self) -> frozenset[kafka.admin.ACL]:
        words = driver("kafka.admin", extra="kafka")
        found, _ = self.admin.describe_acls(
            words.ACLFilter(
                principal=None,
                host=None,
                operation=words.ACLOperation.ANY,
                permission_type=words.ACLPermissionType.ANY,
                resource_pattern=words.ResourcePatternFilter(
                    words.ResourceType.ANY, None, words.ACLResourcePatternType.ANY
                ),
            )
        )
        return frozenset(found)

    def allow(self, prefix: str, *, user: str = "") -> None:
        """Have names that begin so used, where a broker refuses what no ACL allows.

        Without a user everybody may, and nobody delete them: who could tell whose they are?
        """
        rules = [(kind, "ALL", "ALLOW") for kind in ("TOPIC", "GROUP", "TRANSACTIONAL_ID")]
        denied = [] if user else [(kind, "DELETE", "DENY") for kind in ("TOPIC", "GROUP")]
        self._add_acls([*rules, *denied], name=prefix, match="PREFIXED", user=user or "*")

    def allow_asking(self) -> None:
        """Let everybody ask about the broker."""
        rules = [("CLUSTER", what, "ALLOW") for what in ("DESCRIBE", "IDEMPOTENT_WRITE")]
        self._add_acls(rules, name="kafka-cluster", match="LITERAL", user="*")

    def _add_acls(
        self, rules: Iterable[tuple[str, str, str]], *, name: str, match: str, user: str
    ) -> None:
        """Add rules about a name: the kind of what has it, the operation, the permission."""
        words = driver("kafka.admin", extra="kafka")
        acls = []
        for kind, operation, permission in rules:
            pattern = words.ACLResourcePatternType[match]
            resource = words.ResourcePattern(words.ResourceType[kind], name, pattern)
            what, may = words.ACLOperation[operation], words.ACLPermissionType[permission]
            acls.append(words.ACL(f"User:{user}", "*", what, may, resource))
        self.admin.create_acls(acls)

    def create_user(self, user: str, mechanism: str, password: str) -> None:
        """Create a user that proves its password by SCRAM; it can log in when this returns."""
        users = driver("kafka.admin", extra="kafka")
        upsertion = users.UserScramCredentialUpsertion(user, mechanism, str(password))
        refusal = self.admin.alter_user_scram_credentials([upsertion])[user]

        def known() -> bool:
            described = self.admin.describe_user_scram_credentials([user])[user]
            return bool(described["credential_infos"])

        if not refusal and not poll(known, timeout=_USABLE, interval=_INTERVAL):
            refusal = f"it is not known {_USABLE:g} s later"
        if refusal:
            raise self._error(f" refused the user {user!r}: {refusal}")

    # Topics

    def create(self, topic: str, *, partitions: int, settings: Mapping[str, str]) -> None:
        """Create a topic; it can be written to and read when this returns.

        It asks every partition for its end, which the replica answers that is written to. Metadata
        would not do: the broker publishes it before the replicas are there, and a producer that
        comes in between waits a tenth of a second before it tries again.
        """
        errors = kafka_python().errors
        wanted = {"num_partitions": partitions, "replication_factor": 1, "configs": dict(settings)}
        [made] = self.admin.create_topics({topic: wanted}, raise_errors=False)["topics"]
        if made["error_code"]:
            reason = made["error_message"] or errors.for_code(made["error_code"]).__name__
            raise self._error(f" refused the topic {topic!r}: {reason}")
        try:
            poll(
                lambda: self._offsets(topic, partitions, which="LATEST"),
                timeout=_USABLE,
                interval=_INTERVAL,
                retry_on=lambda error: isinstance(error, errors.KafkaError),
            )
        except errors.KafkaError as error:
            raise self._error(
                f": the topic {topic!r} cannot be used {_USABLE:g} s after it was created: {error}"
            ) from error

    def partition_count(self, topic: str) -> int:
        """How many partitions a topic has; 0 when it does not exist."""
        [found] = self.admin.describe_topics([topic])
        return len(found["partitions"])

    def _partitions(self, topic: str) -> int:
        if partitions := self.partition_count(topic):
            return partitions
        raise self._error(f": there is no topic {topic!r}")

    def _offsets(self, topic: str, partitions: int, *, which: str) -> dict[Any, int]:
        """Partition to its first offset (``"EARLIEST"``) or its end (``"LATEST"``)."""
        module = kafka_python()
        spec = module.OffsetSpec[which]
        asked = {module.TopicPartition(topic, number): spec for number in range(partitions)}
        found = self.admin.list_partition_offsets(asked)
        return {partition: offset.offset for partition, offset in found.items()}

    # Groups

    def lag(self, group: str, topic: str) -> int:
        """How many records of a topic a group has not committed yet."""
        partitions = self._partitions(topic)
        ends = self._offsets(topic, partitions, which="LATEST")
        committed = self._offsets(topic, partitions, which="EARLIEST")
        if self._listed(group) is not None:
            found = self.admin.list_group_offsets({group: list(ends)})[group]
            committed |= {key: at.offset for key, at in found.items() if at.offset >= 0}
        return sum(max(0, end - committed[partition]) for partition, end in ends.items())

    def wait_for_group(self, group: str, topic: str, *, lag: int | None, timeout: float) -> None:
        """Return when a group is at most `lag` behind or, without, has all partitions assigned."""
        missing = ""

        def there() -> bool:
            nonlocal missing
            if lag is None:
                partitions = self._partitions(topic)
                state, assigned = self._assignment(group, topic, partitions)
                missing = f"is {state}, with {assigned} of {partitions} partitions assigned"
                return assigned == partitions
            behind = self.lag(group, topic)
            missing = f"is {behind} records behind, where {lag} were asked for,"
            return behind <= lag

        if not poll(there, timeout=timeout):
            raise self._error(f": group {group!r} on topic {topic!r} {missing} after {timeout:g} s")

    def _assignment(self, group: str, topic: str, partitions: int) -> tuple[str, int]:
        """The group's state, and how many partitions of the topic its members have."""
        listed = self._listed(group)
        if listed is None:
            return "absent", 0
        state: str = listed["group_state"]
        if state != "Stable":
            return state, 0
        if listed.get("group_type") == "consumer":  # KIP-848: the broker assigns, and tells no more
            return state, partitions
        mine = {
            number
            for member in self.admin.describe_groups([group])[group]["members"]
            if member["member_assignment"]
            for assigned in member["member_assignment"]["assigned_partitions"]
            if assigned["topic"] == topic
            for number in assigned["partitions"]
        }
        return state, len(mine)

    def _listed(self, group: str) -> dict[str, Any] | None:
        """A group as the broker lists it; its coordinator cannot be asked before there is one."""
        try:
            groups = self.admin.list_groups()
        except kafka_python().errors.CoordinatorLoadInProgressError:
            return None
        return next((each for each in groups if each["group_id"] == group), None)

    # The broker itself

    def identity(self) -> tuple[str, int]:
        """The cluster's id, and that of its controller, which is the only broker.

        As the client's metadata has them: its `describe_cluster` fails with brokers before 3.7.
        """
        cluster = self.admin._manager.cluster  # noqa: SLF001 - there is no other way to them
        return cluster.cluster_id, cluster.controller.node_id

    def _error(self, what: str) -> ServiceError:
        return ServiceError(f"{self._service}{what}", service=self._service)
