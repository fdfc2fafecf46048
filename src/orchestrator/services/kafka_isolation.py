"""What a test leaves on a broker, and how it goes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.services import kafka_acls, kafka_topics

if TYPE_CHECKING:
    from collections.abc import Iterator

    import kafka


@dataclass
class Baseline:
    """What was there before the class's first test, and stays: topics, consumer groups, ACLs.

    Whatever else a test finds, it or code that outlived another test has made, by whatever name.
    """

    topics: frozenset[str] | None = None
    groups: frozenset[str] = frozenset()
    acls: frozenset[kafka.admin.ACL] = frozenset()

    @contextlib.contextmanager
    def restored(self, admin: kafka.KafkaAdminClient, *, guarded: bool) -> Iterator[None]:
        """Nothing but the baseline is there when the block begins and after it.

        Args:
            admin: Looks and deletes.
            guarded: Whether the broker has ACLs.
        """
        if self.topics is None:
            self.topics = kafka_topics.users_topics(admin)
            self.groups = kafka_topics.users_groups(admin)
            self.acls = kafka_acls.in_force(admin) if guarded else frozenset()
        else:
            self._restore(admin, guarded=guarded)
        try:
            yield
        finally:
            self._restore(admin, guarded=guarded)

    def _restore(self, admin: kafka.KafkaAdminClient, *, guarded: bool) -> None:
        kafka_topics.delete_topics(admin, kafka_topics.users_topics(admin) - (self.topics or set()))
        kafka_topics.delete_groups(admin, kafka_topics.users_groups(admin) - self.groups)
        if guarded:
            kafka_acls.delete(admin, kafka_acls.in_force(admin) - self.acls)
