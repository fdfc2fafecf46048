"""What clean state adds to a test: `isolation KIND TESTS`, the seconds of each test.

A class has twice as many tests, by turns: one that does not touch the service, and one that uses
it as little as a test may. The clock runs from startTest to stopTest.
"""

from __future__ import annotations

import json
import sys
import time
import unittest
from typing import TYPE_CHECKING, Any

from orchestrator import Kafka, Postgres, Redis, ServicesMixin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import sqlalchemy


def fifty_tables(engine: sqlalchemy.Engine) -> None:
    """An application's database."""
    from sqlalchemy import text

    with engine.begin() as connection:
        for number in range(50):
            columns = "id serial primary key, name text unique, at timestamptz default now()"
            connection.execute(text(f"create table table_{number}({columns})"))


class Unused(ServicesMixin, unittest.TestCase):
    """A class without services."""

    def use(self) -> None:
        """Use nothing."""


class Schema(ServicesMixin, unittest.TestCase):
    """A schema for each test."""

    db = Postgres()

    def use(self) -> None:
        """One query, on a new connection."""
        with self.db.engine.connect() as connection:
            connection.exec_driver_sql("select 1")


class Clone(Schema):
    """A database for each test, with fifty tables in it."""

    db = Postgres(migrate=fifty_tables)


class Transaction(Schema):
    """A transaction for each test."""

    db = Postgres(isolation="transaction")


class Unshared(Schema):
    """One database for all tests: what a query alone costs."""

    db = Postgres(isolation="none")


class Flush(ServicesMixin, unittest.TestCase):
    """An empty server for each test."""

    cache = Redis()

    def use(self) -> None:
        """Leave a hundred keys behind."""
        self.cache.client.mset({f"key:{number}": "value" for number in range(100)})


class Prefix(Flush):
    """Keys of each test's own, and an error for who touches another's."""

    cache = Redis(isolation="prefix")

    def use(self) -> None:
        """Leave a hundred keys behind."""
        self.cache.client.mset({self.cache.key(str(number)): "value" for number in range(100)})


class Topic(ServicesMixin, unittest.TestCase):
    """A topic of each test's own."""

    events = Kafka()

    def use(self) -> None:
        """Make a topic."""
        self.events.topic("orders")


class Record(Topic):
    """A topic of each test's own, with a record."""

    def use(self) -> None:
        """Produce a record and consume it."""
        topic = self.events.topic("orders")
        with self.events.producer() as producer:
            producer.send(topic, b"paid")
        self.events.consume(topic, count=1, timeout=30)


KINDS: Mapping[str, type[Any]] = {
    "unused": Unused,
    "none": Unshared,
    "schema": Schema,
    "transaction": Transaction,
    "clone": Clone,
    "flush": Flush,
    "prefix": Prefix,
    "topic": Topic,
    "record": Record,
}


class Timing(unittest.TestResult):
    """A result that times every test."""

    began = 0.0

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        """The clock runs from here."""
        super().startTest(test)
        self.began = time.perf_counter()

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        """To here."""
        seconds = time.perf_counter() - self.began
        figures[test.id().rpartition("_")[2]].append(seconds)
        super().stopTest(test)


def many(kind: type[Any], tests: int) -> type[unittest.TestCase]:
    """The class, with so many tests that use its service, and as many that do not."""

    def untouched(_: unittest.TestCase) -> None: ...

    def used(test: Any) -> None:
        test.use()

    bodies: dict[str, Callable[[Any], None]] = {}
    for number in range(tests):
        bodies[f"test_{number:05}_untouched"] = untouched
        bodies[f"test_{number:05}_used"] = used
    return type(kind.__name__, (kind,), {**bodies, "__module__": __name__})


if __name__ == "__main__":
    figures: dict[str, list[float]] = {"untouched": [], "used": []}
    made = many(KINDS[sys.argv[1]], int(sys.argv[2]))
    result = Timing()
    unittest.defaultTestLoader.loadTestsFromTestCase(made).run(result)
    if not result.wasSuccessful():
        sys.exit("\n".join(text for _, text in [*result.errors, *result.failures])[-5000:])
    print(json.dumps(figures))
