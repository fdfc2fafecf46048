"""The same test class as users of testcontainers-python write it: `theirs MODE SERVICE=IMAGE...`.

Its containers as its documentation shows them: made in `setUpClass`, one after another, stopped in
class clean-ups. Its Kafka module is written for another image; README.md here says what is
changed for Apache's.
"""

from __future__ import annotations

import json
import os
import sys
import time
import unittest
from io import StringIO
from textwrap import dedent
from typing import Any, ClassVar

from testcontainers.community.kafka import KafkaContainer
from testcontainers.community.postgres import PostgresContainer
from testcontainers.community.redis import RedisContainer

from tests.benchmarks.machine import free_port
from tests.benchmarks.protocol import CONTAINER_PORTS
from tests.benchmarks.workers import round_trips
from tests.benchmarks.workers.watched import Seen, observers

# Its own would be 120 s; this way, the benchmark ends while somebody still looks.
DEADLINE = 5


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


def started(container: Any, *, service: str, seen: Seen | None = None) -> Any:
    """Start a container; to have it observed, on a port that is known before."""
    container.with_kwargs(labels=dict([os.environ["BENCHMARK_LABEL"].split("=")]))
    if seen is not None:
        port = free_port()
        container.with_bind_ports(getattr(container, "port", CONTAINER_PORTS[service]), port)
        seen.observe(service, port)
    container.start()
    if seen is not None:
        seen.note(service)
    return container


MADE = {
    "postgres": lambda image: PostgresContainer(image, driver="psycopg"),
    "redis": RedisContainer,
    "kafka": ApacheKafkaContainer,
}


class Timed(unittest.TestCase):
    """One test: a round trip to each of the services."""

    images: ClassVar[dict[str, str]]
    seen: ClassVar[Seen | None] = None
    moments: ClassVar[dict[str, float]] = {}
    running: ClassVar[dict[str, Any]] = {}

    @classmethod
    def setUpClass(cls) -> None:
        """The clock runs from here."""
        cls.moments["began"] = time.monotonic()
        for service, image in cls.images.items():
            container = MADE[service](image)
            cls.addClassCleanup(container.stop)
            cls.running[service] = started(container, service=service, seen=cls.seen)
        cls.moments["ready"] = time.monotonic()

    @classmethod
    def tearDownClass(cls) -> None:
        """The class's clean-ups follow."""
        cls.moments["ending"] = time.monotonic()

    def test_round_trip(self) -> None:
        """A round trip to each."""
        if "postgres" in self.running:
            from sqlalchemy import create_engine

            engine = create_engine(self.running["postgres"].get_connection_url())
            round_trips.postgres(engine)
            engine.dispose()
        if "redis" in self.running:
            with self.running["redis"].get_client() as client:
                round_trips.cache(client)
        if "kafka" in self.running:
            self.produce_and_consume(self.running["kafka"].get_bootstrap_server())
        self.moments["answered"] = time.monotonic()

    def produce_and_consume(self, bootstrap: str) -> None:
        """The topic is made by the first record; the reader has no group to join."""
        from kafka import KafkaConsumer, KafkaProducer

        with KafkaProducer(bootstrap_servers=bootstrap) as producer:
            producer.send("paid", b"10")
        options = {"auto_offset_reset": "earliest", "consumer_timeout_ms": 30_000}
        with KafkaConsumer("paid", bootstrap_servers=bootstrap, **options) as consumer:
            self.assertEqual(b"10", next(iter(consumer)).value)


def main(mode: str, services: list[str]) -> Any:
    """Run one of the modes and return what it found."""
    Timed.images = dict(service.split("=", 1) for service in services)
    if mode == "dead":
        return dead(Timed.images["redis"])
    if mode == "watch":
        with observers() as Timed.seen:
            run()
            return Timed.seen.idle()
    moments = run()
    return {
        "ready": moments["ready"] - moments["began"],
        "round trip": moments["answered"] - moments["began"],
        "teardown": moments["ended"] - moments["ending"],
    }


def run() -> dict[str, float]:
    """Run the class, and return its moments."""
    output = StringIO()
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(Timed)
    if not unittest.TextTestRunner(output).run(suite).wasSuccessful():
        sys.exit(output.getvalue())
    return {**Timed.moments, "ended": time.monotonic()}


def dead(image: str) -> dict[str, float]:
    """How long it takes until a Redis that refuses its configuration is reported."""
    container = RedisContainer(image).with_command("redis-server --no-such-setting 1")
    container._wait_strategy.with_startup_timeout(DEADLINE)
    began = time.monotonic()
    try:
        started(container, service="redis")
    except Exception:  # noqa: BLE001 - whichever: what counts is when
        return {"error": time.monotonic() - began}
    finally:
        container.stop()
    sys.exit("a Redis that refuses its configuration was taken for ready")


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2:])))
