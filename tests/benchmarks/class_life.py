"""The life of a class with one test, timed; the round trips that are the same for every library."""

from __future__ import annotations

import sys
import time
import unittest
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import redis
    import sqlalchemy

    from tests.benchmarks.measuring import Figures


def life(case: Any) -> Figures:
    """Run a class whose test is `test_round_trip`: the seconds of its phases."""
    moments: dict[str, float] = {}

    class Timed(case):  # type: ignore[misc]  # which case is known when it runs
        @classmethod
        def setUpClass(cls) -> None:
            cls.addClassCleanup(lambda: moments.update(over=time.monotonic()))  # the last of them
            moments["began"] = time.monotonic()
            super().setUpClass()
            moments["ready"] = time.monotonic()

        @classmethod
        def tearDownClass(cls) -> None:
            super().tearDownClass()
            moments["ending"] = time.monotonic()  # class clean-ups follow

        def test_round_trip(self) -> None:
            super().test_round_trip()
            moments["answered"] = time.monotonic()

    output = StringIO()
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(Timed)
    if not unittest.TextTestRunner(output).run(suite).wasSuccessful():
        sys.exit(output.getvalue())
    return {
        "ready": moments["ready"] - moments["began"],
        "round trip": moments["answered"] - moments["began"],
        "teardown": moments["over"] - moments["ending"],
    }


def ask_postgres(engine: sqlalchemy.Engine) -> None:
    """Make a table, write a row, read it."""
    from sqlalchemy import text  # as late as a variant may: drivers are part of what it costs

    with engine.begin() as connection:
        connection.execute(text("create table paid(amount integer)"))
        connection.execute(text("insert into paid values (10)"))
        assert connection.execute(text("select amount from paid")).scalar_one() == 10


def ask_redis(client: redis.Redis) -> None:
    """Write a key, read it."""
    client.set("paid", "10")
    assert client.get("paid") == b"10"
