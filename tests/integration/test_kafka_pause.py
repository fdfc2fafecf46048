"""New clients of Kafka do not pause before they ask for their topic."""

from __future__ import annotations

import unittest

from orchestrator import Kafka, ServicesMixin


class PauseTest(ServicesMixin, unittest.TestCase):
    """kafka-python's own pause of 100 ms is shortened where it really is."""

    events = Kafka()

    def test_producer_pauses_less(self) -> None:
        """A producer asks for a topic's metadata again after 10 ms."""
        with self.events.producer() as producer:
            self.assertEqual(10, producer._metadata.config["retry_backoff_ms"])

    def test_consumer_pauses_less(self) -> None:
        """A consumer does so too."""
        with self.events.consumer() as consumer:
            self.assertEqual(10, consumer._cluster.config["retry_backoff_ms"])

    def test_own_pause_is_kept(self) -> None:
        """What a test asks for itself is what it gets."""
        with self.events.producer(retry_backoff_ms=50) as producer:
            self.assertEqual(50, producer._metadata.config["retry_backoff_ms"])
