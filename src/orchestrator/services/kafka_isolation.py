"""What a test leaves on a broker, and how it goes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.services import kafka_topics

if TYPE_CHECKING:
    from collections.abc import Iterator

    import kafka


@dataclass
class Baseline:
    """What was there before the class's first test, and stays: topics and consumer groups.

    Whatever else a test finds, it or code that outlived another test has made, by whatever name.
    """

    topics: frozenset[str] | None = None
    groups: frozenset[str] = frozenset()

    @contextlib.contextmanager
    def restored(self, admin: kafka.KafkaAdminClient) -> Iterator[None]:
        """Nothing but the baseline is there when the block begins and after it."""
        if self.topics is None:
            self.topics = kafka_topics.users_topics(admin)
            self.groups = kafka_topics.users_groups(admin)
        else:
            self._restore(admin)
        try:
            yield
        finally:
            self._restore(admin)

    def _restore(self, admin: kafka.KafkaAdminClient) -> None:
        kafka_topics.delete_topics(admin, kafka_topics.users_topics(admin) - (self.topics or set()))
        kafka_topics.delete_groups(admin, kafka_topics.users_groups(admin) - self.groups)
