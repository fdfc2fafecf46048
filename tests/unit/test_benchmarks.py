"""The arithmetic of the benchmarks."""

from __future__ import annotations

import unittest

from tests.benchmarks.measuring import (
    FLOOR,
    OURS,
    THEIRS,
    Row,
    Subject,
    at_most,
    at_most_times,
    take_turns,
)
from tests.benchmarks.report import table


class BenchmarksTest(unittest.TestCase):
    """From samples to what people read."""

    def test_ratio_is_that_of_the_rounds(self) -> None:
        """Samples of one round are divided by one another before the median is taken."""
        row = Row("start", {OURS: [2.0, 30.0, 4.0], FLOOR: [1.0, 10.0, 4.0]})
        self.assertEqual((4.0, 2.0), (row.median(OURS), row.ratio(OURS, FLOOR)))

    def test_table_tells_what_was_expected(self) -> None:
        """A limit itself is allowed; what was not measured is neither met nor missed."""
        subject = Subject("start", "How long it takes", lambda _: (), ((OURS, FLOOR),))
        rows = (
            Row("Postgres", {FLOOR: [1.0], OURS: [1.5]}, [at_most_times(1.3, FLOOR), at_most(1.5)]),
            Row("Redis", {FLOOR: [0.25], OURS: [0.25]}, [at_most_times(0.5, THEIRS)]),
        )
        expected = (
            "How long it takes\n"
            "             docker run   orchestrator   orchestrator ÷ docker run\n"
            "  Postgres       1.00 s         1.50 s                       1.50x\n"
            "  Redis        250.0 ms       250.0 ms                       1.00x\n"
            "  expected of Postgres: ≤ 1.3x docker run: MISSED\n"
            "  expected of Postgres: ≤ 1.5 s: met\n"
            "  expected of Redis: ≤ 0.5x testcontainers: not measured"
        )
        self.assertEqual(expected, table(subject, rows))

    def test_variants_take_turns(self) -> None:
        """A B, A B, and not A A, B B."""
        calls: list[str] = []

        def measure(name: str) -> dict[str, float]:
            calls.append(name)
            return {"seconds": len(calls)}

        variants = {name: lambda name=name: measure(name) for name in "AB"}
        samples = take_turns({"start": variants}, rounds=2)
        self.assertEqual(["A", "B", "A", "B"], calls)
        self.assertEqual({"A": [1, 3], "B": [2, 4]}, samples["start", "seconds"])
