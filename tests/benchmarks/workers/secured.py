"""A class with a Kafka broker of some security, timed: `secured SECURITY`."""

from __future__ import annotations

import json
import sys
import time
import unittest
from typing import Any, ClassVar

from orchestrator import Kafka, ServicesMixin

figures: dict[str, float] = {}
security: Any = sys.argv[1]


class Secured(ServicesMixin, unittest.TestCase):
    """One test: a round trip."""

    began: ClassVar[float]
    events = Kafka(security=security)

    @classmethod
    def setUpClass(cls) -> None:
        """The clock runs from here."""
        cls.began = time.monotonic()
        super().setUpClass()
        figures["ready"] = time.monotonic() - cls.began

    def test_round_trip(self) -> None:
        """A topic, a record produced and consumed."""
        topic = self.events.topic("paid")
        with self.events.producer() as producer:
            producer.send(topic, b"10")
        self.events.consume(topic, timeout=30)
        figures["round trip"] = time.monotonic() - self.began


if __name__ == "__main__":
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(Secured)
    result = unittest.TestResult()
    suite.run(result)
    if not result.wasSuccessful():
        sys.exit("\n".join(text for _, text in [*result.errors, *result.failures])[-5000:])
    print(json.dumps(figures))
