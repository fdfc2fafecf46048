"""Kafka: what can be said about a log without a broker."""

from __future__ import annotations

import unittest

from orchestrator.services.kafka import why_ended

_THROWN = (
    'run: error: Exception in thread "main" org.apache.kafka.common.config.ConfigException: '
    "Invalid value many for configuration num.partitions: Not a number of type INT\n"
    "\tat org.apache.kafka.common.config.ConfigDef.parseType(ConfigDef.java:776)\n"
)


class WhyEndedTest(unittest.TestCase):
    """The log of a broker that ended tells why."""

    def test_the_exception_it_did_not_start_for_is_told(self) -> None:
        """A setting that cannot be read, for one."""
        self.assertEqual(
            "ConfigException: Invalid value many for configuration num.partitions: Not a number "
            "of type INT",
            why_ended(_THROWN),
        )

    def test_an_exception_of_a_broker_that_ran_is_no_reason(self) -> None:
        """It logs what goes wrong with a client, and goes on."""
        self.assertEqual("", why_ended(f"INFO Kafka Server started (kafka.server)\n{_THROWN}"))
