"""What clean state adds to each test; run as `isolation KIND TESTS`, the seconds of each test.

A class has twice as many tests, by turns: one that does not touch the service, and one that uses
it as little as a test may. The clock runs from startTest to stopTest.
"""

from __future__ import annotations

import json
import sys
import time
import unittest
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator import Kafka, Postgres, Redis, ServicesMixin
from tests.benchmarks.machine import run_worker
from tests.benchmarks.measuring import OURS, Row, Subject, at_most

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import sqlalchemy


_TESTS = 70  # per round


@dataclass(frozen=True)
class Kind:
    """A kind of isolation, and the seconds that tests may take which use its service or do not."""

    what: str
    service: Any
    use: Callable[[Any], object]
    untouched: float | None = None
    used: float | None = None


def fifty_tables(engine: sqlalchemy.Engine) -> None:
    """An application's database."""
    columns = "id serial primary key, name text unique, at timestamptz default now()"
    with engine.begin() as connection:
        for number in range(50):
            connection.exec_driver_sql(f"create table table_{number}({columns})")


def query(db: Any) -> None:
    """A query, on a new connection."""
    with db.engine.connect() as connection:
        connection.exec_driver_sql("select 1")


def keys(cache: Any) -> None:
    """A hundred keys that are left behind."""
    cache.client.mset({cache.key(str(number)): "value" for number in range(100)})


def record(events: Any) -> None:
    """A topic, a record produced and consumed."""
    topic = events.topic("orders")
    with events.producer() as producer:
        producer.send(topic, b"paid")
    events.consume(topic, count=1, timeout=30)


KINDS: Mapping[str, Kind] = {
    "unused": Kind("no service", None, lambda _: None),
    "none": Kind("Postgres, isolation none", Postgres(isolation="none"), query),
    "schema": Kind("Postgres, a schema", Postgres(), query, untouched=0.005),
    "transaction": Kind(
        "Postgres, a transaction", Postgres(isolation="transaction"), query, untouched=0.001
    ),
    "clone": Kind(
        "Postgres, a clone of fifty tables", Postgres(migrate=fifty_tables), query, untouched=0.004
    ),
    "flush": Kind("Redis, flushed", Redis(), keys, untouched=0.001),
    "prefix": Kind("Redis, a prefix", Redis(isolation="prefix"), keys, untouched=0.002),
    "topic": Kind("Kafka, a topic", Kafka(), lambda events: events.topic("orders"), used=0.03),
    "record": Kind("Kafka, a topic and a record", Kafka(), record),
}


def measure(rounds: int) -> Sequence[Row]:
    """One class after another: medians over many tests level out what the machine does."""
    rows = []
    for name, kind in KINDS.items():
        figures = run_worker("isolation", name, str(_TESTS * rounds))
        limits = {"untouched": kind.untouched, "used": kind.used}
        for figure, limit in limits.items():
            expected = [] if limit is None else [at_most(limit)]
            rows.append(Row(f"{kind.what}: {figure}", {OURS: figures[figure]}, expected))
    return rows


SUBJECT = Subject("isolation", "A test, from startTest to stopTest", measure)


class Timing(unittest.TestResult):
    """A result that times every test."""

    def __init__(self) -> None:
        super().__init__()
        self.figures: dict[str, list[float]] = {"untouched": [], "used": []}

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        """The clock runs from here."""
        super().startTest(test)
        self.began = time.perf_counter()

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        """To here."""
        seconds = time.perf_counter() - self.began
        self.figures[test.id().rpartition("_")[2]].append(seconds)
        super().stopTest(test)


def main(kind: Kind, tests: int) -> Mapping[str, Sequence[float]]:
    """Run a class with so many tests that use its service, and as many that do not."""
    body: dict[str, Any] = {"service": kind.service, "__module__": __name__}
    for number in range(tests):
        body[f"test_{number:05}_untouched"] = lambda _: None
        body[f"test_{number:05}_used"] = lambda test: kind.use(test.service)
    made: type[unittest.TestCase] = type("Isolated", (ServicesMixin, unittest.TestCase), body)
    result = Timing()
    unittest.defaultTestLoader.loadTestsFromTestCase(made).run(result)
    if not result.wasSuccessful():
        sys.exit("\n".join(text for _, text in [*result.errors, *result.failures])[-5000:])
    return result.figures


if __name__ == "__main__":
    print(json.dumps(main(KINDS[sys.argv[1]], int(sys.argv[2]))))
