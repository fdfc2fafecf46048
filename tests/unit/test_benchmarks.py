"""The arithmetic of the benchmarks."""

from __future__ import annotations

import unittest

from tests.benchmarks.figures import (
    FLOOR,
    OURS,
    THEIRS,
    Effort,
    Row,
    Subject,
    at_most,
    at_most_times,
    longer_by_at_most,
    sooner_than,
)
from tests.benchmarks.report import missed, seconds, table
from tests.benchmarks.rounds import take_turns


class RowTest(unittest.TestCase):
    """Medians, ratios and expectations."""

    row = Row("start", {OURS: [2.0, 30.0, 4.0], FLOOR: [1.0, 10.0, 4.0], THEIRS: [8.0, 90.0, 8.0]})

    def test_median_is_the_middle_sample(self) -> None:
        """One slow sample does not move it."""
        self.assertEqual(4.0, self.row.median(OURS))

    def test_ratio_is_that_of_the_rounds(self) -> None:
        """Samples of one round are divided by one another before the median is taken."""
        self.assertEqual(2.0, self.row.ratio(OURS, FLOOR))

    def test_nothing_is_said_of_what_was_not_measured(self) -> None:
        """A missing variant has neither median nor ratio, and its expectations are open."""
        row = Row("start", {OURS: [1.0]})
        self.assertIsNone(row.median(THEIRS))
        self.assertIsNone(row.ratio(THEIRS, OURS))
        self.assertIsNone(sooner_than(2, THEIRS).holds(row))

    def test_expectations_hold_up_to_their_limit(self) -> None:
        """The limit itself is allowed; anything beyond it is not."""
        for good, bad in (
            (at_most(4.0), at_most(3.9)),
            (at_most_times(2.0, FLOOR), at_most_times(1.9, FLOOR)),
            (sooner_than(3.0, THEIRS), sooner_than(3.1, THEIRS)),
            (longer_by_at_most(0.0, FLOOR), longer_by_at_most(-0.1, FLOOR)),
        ):
            with self.subTest(good.text):
                self.assertEqual((True, False), (good.holds(self.row), bad.holds(self.row)))


class ReportTest(unittest.TestCase):
    """What people read."""

    subject = Subject(
        name="start",
        title="How long it takes",
        variants=(FLOOR, OURS, THEIRS),
        ratios=((OURS, FLOOR),),
        measure=lambda _: (),
    )
    rows = (
        Row("Postgres", {FLOOR: [1.0], OURS: [1.5]}, [at_most_times(1.3, FLOOR)]),
        Row("Redis", {FLOOR: [0.25], OURS: [0.25]}),
    )

    def test_table_is_aligned(self) -> None:
        """Every figure ends below the end of its column's name."""
        expected = (
            "How long it takes\n"
            "             docker run   orchestrator   testcontainers   orchestrator ÷ docker run\n"
            "  Postgres       1.00 s         1.50 s                -                       1.50x\n"
            "  Redis        250.0 ms       250.0 ms                -                       1.00x\n"
            "  expected of Postgres: ≤ 1.3x docker run: MISSED"
        )
        self.assertEqual(expected, table(self.subject, self.rows))

    def test_missed_expectations_are_listed(self) -> None:
        """Each with its subject and row."""
        self.assertEqual(["start: Postgres: ≤ 1.3x docker run"], missed({self.subject: self.rows}))

    def test_durations_have_the_unit_they_are_best_read_in(self) -> None:
        """Seconds from one second on, milliseconds below."""
        self.assertEqual(["1.00 s", "999.0 ms", "-0.5 ms"], [*map(seconds, (1, 0.999, -0.0005))])


class RoundsTest(unittest.TestCase):
    """Who is measured when."""

    def test_variants_take_turns(self) -> None:
        """A B, A B, and not A A, B B."""
        calls: list[str] = []

        def measure(name: str) -> dict[str, float]:
            calls.append(name)
            return {"seconds": len(calls)}

        variants = {name: lambda name=name: measure(name) for name in "AB"}
        samples = take_turns({"start": variants}, rounds=Effort(rounds=2, tests=0).rounds)

        self.assertEqual(["A", "B", "A", "B"], calls)
        self.assertEqual({"A": [1, 3], "B": [2, 4]}, samples["start", "seconds"])
