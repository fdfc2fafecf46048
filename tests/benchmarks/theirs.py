"""The same test class as users of testcontainers-python write it: `theirs SERVICE=IMAGE...`.

Its containers as its documentation shows them: made in `setUpClass`, one after another, stopped in
class clean-ups. Its Kafka module is written for another image; README.md here says what is
changed for Apache's.
"""

from __future__ import annotations

import json
import os
import sys
import unittest
from textwrap import dedent
from typing import Any, ClassVar

from testcontainers.community.kafka import KafkaContainer
from testcontainers.community.postgres import PostgresContainer
from testcontainers.community.redis import RedisContainer

from tests.benchmarks.class_life import ask_postgres, ask_redis, life


class ApacheKafkaContainer(KafkaContainer):  # type: ignore[misc]  # it has a venv of its own
    """Its Kafka module on Apache's image, which has one script for what Confluent's has three."""

    def __init__(self, image: str) -> None:
        super().__init__(image)
        self.kraft_enabled = True  # its check for a version needs a tag

    def tc_start(self) -> None:
        """Write the script the container waits for: the advertised port is known only now."""
        listeners = f"PLAINTEXT://{self.get_bootstrap_server()},BROKER://localhost:9092"
        script = f"""\
            export KAFKA_ADVERTISED_LISTENERS={listeners}
            exec /etc/kafka/docker/run
        """
        self.create_file(dedent(script).encode(), KafkaContainer.TC_START_SCRIPT)


class RoundTrip(unittest.TestCase):
    """One test: a round trip to each of the services."""

    images: ClassVar = dict(service.split("=", 1) for service in sys.argv[1:])
    running: ClassVar[dict[str, Any]] = {}

    @classmethod
    def setUpClass(cls) -> None:
        """One container after another."""
        made = {
            "postgres": lambda image: PostgresContainer(image, driver="psycopg"),
            "redis": RedisContainer,
            "kafka": ApacheKafkaContainer,
        }
        for service, image in cls.images.items():
            container = cls.running[service] = made[service](image)
            container.with_kwargs(labels=dict([os.environ["BENCHMARK_LABEL"].split("=")]))
            cls.addClassCleanup(container.stop)
            container.start()

    def test_round_trip(self) -> None:
        """A round trip to each."""
        if "postgres" in self.running:
            from sqlalchemy import create_engine

            engine = create_engine(self.running["postgres"].get_connection_url())
            ask_postgres(engine)
            engine.dispose()
        if "redis" in self.running:
            with self.running["redis"].get_client() as client:
                ask_redis(client)
        if "kafka" in self.running:
            from kafka import KafkaConsumer, KafkaProducer

            bootstrap = self.running["kafka"].get_bootstrap_server()
            with KafkaProducer(bootstrap_servers=bootstrap) as producer:
                producer.send("paid", b"10")  # makes the topic
            # The reader has no group to join.
            options = {"auto_offset_reset": "earliest", "consumer_timeout_ms": 30_000}
            with KafkaConsumer("paid", bootstrap_servers=bootstrap, **options) as consumer:
                self.assertEqual(b"10", next(iter(consumer)).value)


if __name__ == "__main__":
    print(json.dumps(life(RoundTrip)))
