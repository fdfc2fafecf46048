"""A test class as users of orchestrator write it, timed: `ours MODE SERVICE...`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import unittest
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any, ClassVar

from orchestrator import Kafka, Postgres, Redis, ServicesMixin
from orchestrator.errors import ServiceExitedError
from tests.benchmarks.workers import round_trips
from tests.benchmarks.workers.watched import observers

if TYPE_CHECKING:
    from orchestrator import Service
    from orchestrator.probes import Probe
    from orchestrator.probes.checks import Target
    from tests.benchmarks.workers.watched import Seen


class Timed(ServicesMixin, unittest.TestCase):
    """One test: a round trip to each of the declared services."""

    asked: ClassVar[list[str]]
    moments: ClassVar[dict[str, float]] = {}
    db: Any
    cache: Any
    events: Any

    @classmethod
    def setUpClass(cls) -> None:
        """The clock runs from here."""
        cls.moments["began"] = time.monotonic()
        super().setUpClass()
        cls.moments["ready"] = time.monotonic()

    @classmethod
    def tearDownClass(cls) -> None:
        """The class's clean-ups follow."""
        cls.moments["ending"] = time.monotonic()

    def test_round_trip(self) -> None:
        """A round trip to each."""
        if "postgres" in self.asked:
            round_trips.postgres(self.db.engine)
        if "redis" in self.asked:
            round_trips.cache(self.cache.client)
        if "kafka" in self.asked:
            topic = self.events.topic("paid")
            with self.events.producer() as producer:
                producer.send(topic, b"10")
            [record] = self.events.consume(topic, count=1, timeout=30)
            self.assertEqual(b"10", record.value)
        self.moments["answered"] = time.monotonic()


class Inspected(Timed):
    """One test: what Docker says about each service's container."""

    found: ClassVar[dict[str, Any]] = {}

    def test_round_trip(self) -> None:
        """Ask Docker."""
        for service, handle in zip(self.asked, (self.db, self.cache, self.events), strict=True):
            told = subprocess.run(
                ["docker", "inspect", handle.container_id], capture_output=True, check=True
            )
            [self.found[service]] = json.loads(told.stdout)


DECLARED = {"postgres": ("db", Postgres), "redis": ("cache", Redis), "kafka": ("events", Kafka)}


@dataclass(frozen=True)
class Noted:
    """A probe that tells when it first succeeded."""

    probe: Probe
    service: str
    seen: Seen

    def check(self, target: Target) -> None:
        """Try it."""
        self.probe.check(target)
        self.seen.note(self.service)


def watched(kind: Any, name: str, seen: Seen) -> type[Service]:
    """A kind of service that is observed from before its container exists."""

    class Watched(kind):  # type: ignore[misc]  # which kind is known when it runs
        def server_env(self) -> Any:
            seen.observe(name, self.port)
            return super().server_env()

        def readiness(self) -> Probe:
            return Noted(super().readiness(), name, seen)

    return Watched


def run(base: type[Timed], services: list[str], **kinds: Any) -> dict[str, float]:
    """Run the class, and return its moments."""
    body = {DECLARED[name][0]: kinds.get(name, DECLARED[name][1])() for name in services}
    made: type[Timed] = type(
        "Benchmark", (base,), {**body, "asked": services, "__module__": __name__}
    )
    output = StringIO()
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(made)
    if not unittest.TextTestRunner(output).run(suite).wasSuccessful():
        sys.exit(output.getvalue())
    return {**made.moments, "ended": time.monotonic()}


class Dead(ServicesMixin, unittest.TestCase):
    """A Redis that refuses its configuration."""

    cache = Redis(settings={"no-such-setting": "1"})


def dead() -> dict[str, float]:
    """How long it takes until it is reported, from the beginning and from its exit."""
    began, since = time.monotonic(), time.time()
    try:
        Dead.setUpClass()
    except ServiceExitedError:
        reported, until = time.monotonic(), time.time()
    Dead.doClassCleanups()
    run_id = os.environ["ORCHESTRATOR_RUN"]
    exits = subprocess.run(
        [
            *("docker", "events", f"--since={since:.3f}", f"--until={until:.3f}"),
            *("--filter=event=die", f"--filter=label=dev.orchestrator.run={run_id}"),
            "--format={{.TimeNano}}",
        ],
        capture_output=True,
        check=True,
    )
    exited = int(exits.stdout.split()[0]) / 1e9
    return {"error": reported - began, "after exit": until - exited}


def main(mode: str, services: list[str]) -> Any:
    """Run one of the modes and return what it found."""
    if mode == "inspect":
        run(Inspected, services)
        return Inspected.found
    if mode == "watch":
        with observers() as seen:
            kinds = {name: watched(DECLARED[name][1], name, seen) for name in services}
            run(Timed, services, **kinds)
            return seen.idle()
    if mode == "dead":
        return dead()
    moments = run(Timed, services)
    return {
        "ready": moments["ready"] - moments["began"],
        "round trip": moments["answered"] - moments["began"],
        "teardown": moments["ended"] - moments["ending"],
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2:])))
