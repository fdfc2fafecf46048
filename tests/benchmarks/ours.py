"""A test class of orchestrator's users, timed: `ours MODE SERVICE...`, such as kafka:SECURITY."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import unittest
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator import Kafka, Postgres, Redis, ServicesMixin
from tests.benchmarks.class_life import ask_postgres, ask_redis, life

if TYPE_CHECKING:
    from orchestrator.probes import Probe, Target
    from tests.benchmarks.measuring import Figures

KINDS: dict[str, type[Any]] = {"postgres": Postgres, "redis": Redis, "kafka": Kafka}


class RoundTrip(ServicesMixin, unittest.TestCase):
    """One test: a round trip to each of the declared services, whose names are their kinds'."""

    postgres: Any = None
    redis: Any = None
    kafka: Any = None

    def test_round_trip(self) -> None:
        """A round trip to each."""
        if self.postgres:
            ask_postgres(self.postgres.engine)
        if self.redis:
            ask_redis(self.redis.client)
        if self.kafka:
            topic = self.kafka.topic("paid")
            with self.kafka.producer() as producer:
                producer.send(topic, b"10")
            [record] = self.kafka.consume(topic, count=1, timeout=30)
            self.assertEqual(b"10", record.value)


def start(*services: str) -> Figures:
    """The life of a class."""
    declared = {}
    for service in services:
        kind, _, security = service.partition(":")
        declared[kind] = KINDS[kind](**({"security": security} if security else {}))
    return life(type("Benchmark", (RoundTrip,), {**declared, "__module__": __name__}))


@dataclass(frozen=True)
class NotingProbe:
    """A probe that tells when it first succeeded."""

    probe: Probe
    service: str
    noticed: dict[str, float]

    def check(self, target: Target) -> None:
        """Try it."""
        self.probe.check(target)
        self.noticed.setdefault(self.service, time.monotonic())


def watch(*services: str) -> Figures:
    """How long each server answered before the library saw it: each has an observer process."""
    observers: dict[str, subprocess.Popen[str]] = {}
    noticed: dict[str, float] = {}

    def watched(kind: Any, name: str) -> Any:
        class Watched(kind):  # type: ignore[misc]  # which kind is known when it runs
            def server_env(self) -> Any:
                if name not in observers:
                    argv = [sys.executable, "-m", "tests.benchmarks.floor", name, str(self.port)]
                    observer = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
                    observers[name] = observer
                    assert observer.stdout
                    observer.stdout.readline()  # it asks
                return super().server_env()

            def readiness(self) -> Probe:
                return NotingProbe(super().readiness(), name, noticed)

        return Watched

    KINDS.update({name: watched(KINDS[name], name) for name in services})
    try:
        start(*services)
        return {name: noticed[name] - float(it.communicate()[0]) for name, it in observers.items()}
    finally:
        for observer in observers.values():
            observer.kill()


if __name__ == "__main__":
    mode = {"start": start, "watch": watch}[sys.argv[1]]
    print(json.dumps(mode(*sys.argv[2:])))
