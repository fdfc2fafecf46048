"""What the tests of Kafka share."""

from __future__ import annotations

import unittest
from typing import TYPE_CHECKING, Any

from orchestrator import Kafka, ServicesMixin
from orchestrator.images import find_lock
from orchestrator.settings import Settings
from tests.support.classes import left_of_this_process

if TYPE_CHECKING:
    from collections.abc import Sequence


class OneBrokerTest(ServicesMixin, unittest.TestCase):
    """One broker for the tests of the class; nothing is left of it afterwards."""

    events = Kafka()

    @classmethod
    def setUpClass(cls) -> None:
        """Nothing is left of the services when the class has ended."""
        cls.addClassCleanup(cls.check_nothing_is_left)
        super().setUpClass()

    @classmethod
    def check_nothing_is_left(cls) -> None:
        """Raise unless the daemon has nothing of this process any more."""
        assert not (left := left_of_this_process()), left

    def produce(self, topic: str, *values: bytes, **config: Any) -> None:
        """Send values and wait until the broker has them."""
        with self.events.producer(**config) as producer:
            for value in values:
                producer.send(topic, value)

    def values(self, topic: str, count: int, *, timeout: float = 10) -> Sequence[bytes]:
        """The next values of a topic."""
        return [record.value for record in self.events.consume(topic, count=count, timeout=timeout)]


def image_of(entry: str, reference: str) -> str:
    """An entry of the lock file in force, else the official image, where a registry has it."""
    return entry if entry in find_lock(Settings.from_environment()).entries else reference
