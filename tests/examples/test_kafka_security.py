"""Kafka as in production: TLS, passwords, and rights that are missing."""

from __future__ import annotations

import unittest
from typing import TYPE_CHECKING, Any

from kafka import KafkaProducer
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from kafka.errors import TopicAuthorizationFailedError

from orchestrator import Kafka, ServicesMixin

if TYPE_CHECKING:
    from collections.abc import Mapping


class Notifier:
    """The code under test: it takes the settings of its client from the configuration."""

    def __init__(self, kafka: Mapping[str, Any], topic: str) -> None:
        self._producer = KafkaProducer(**kafka)
        self._topic = topic
        self.undelivered: list[bytes] = []

    def notify(self, message: bytes) -> None:
        """Send a message; one that may not be sent is kept for later."""
        try:
            self._producer.send(self._topic, message).get(timeout=10)
        except TopicAuthorizationFailedError:
            self.undelivered.append(message)

    def close(self) -> None:
        """Close the client."""
        self._producer.close()


class SecurityTest(ServicesMixin, unittest.TestCase):
    """Certificates and passwords are made for the class, and go with it."""

    events = Kafka(security="sasl_ssl", mechanism="SCRAM-SHA-512")

    def notifier(self, topic: str) -> Notifier:
        """A notifier that is closed after the test."""
        notifier = Notifier(self.events.client_settings, topic)
        self.addCleanup(notifier.close)
        return notifier

    def test_message_arrives(self) -> None:
        """With the right settings, all is as without security."""
        topic = self.events.topic("notices")
        self.notifier(topic).notify(b"paid")
        self.assertEqual(b"paid", self.events.consume(topic)[0].value)

    def test_missing_right(self) -> None:
        """Somebody has taken the right to write: the message is not lost."""
        topic = self.events.topic("notices")
        denial = ACL(
            principal="User:test",
            host="*",
            operation=ACLOperation.WRITE,
            permission_type=ACLPermissionType.DENY,
            resource_pattern=ResourcePattern(ResourceType.TOPIC, topic),
        )
        self.events.admin.create_acls([denial])
        notifier = self.notifier(topic)
        while not notifier.undelivered:  # the denial takes a moment to be in force
            notifier.notify(b"paid")
        self.assertEqual([b"paid"], notifier.undelivered)
