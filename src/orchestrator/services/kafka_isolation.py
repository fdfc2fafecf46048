"""What tests leave on a broker, and how it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.services import kafka_acls, kafka_topics

if TYPE_CHECKING:
    import kafka


@dataclass
class Baseline:
    """What was there before the class's first test, and stays: topics, consumer groups, ACLs.

    Whatever else a test finds when it begins, an earlier one has made, or code that outlived it, by
    whatever name.
    """

    topics: frozenset[str] | None = None
    groups: frozenset[str] = frozenset()
    acls: frozenset[kafka.admin.ACL] = frozenset()

    def restore(self, admin: kafka.KafkaAdminClient, *, guarded: bool) -> None:
        """Delete what is not of the baseline; the first time, take it.

        Args:
            admin: Looks and deletes.
            guarded: Whether the broker has ACLs.
        """
        topics, has_groups = kafka_topics.users_topics(admin)
        groups = kafka_topics.users_groups(admin) if has_groups else frozenset()
        acls = kafka_acls.in_force(admin) if guarded else frozenset()
        if self.topics is None:
            self.topics, self.groups, self.acls = topics, groups, acls
            return
        kafka_topics.delete_topics(admin, topics - self.topics)
        kafka_topics.delete_groups(admin, groups - self.groups)
        kafka_acls.delete(admin, acls - self.acls)
