"""What a measurement is: samples by variant, their medians and ratios, what is expected."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FLOOR = "docker run"
OURS = "orchestrator"
THEIRS = "testcontainers"


@dataclass(frozen=True)
class Row:
    """One thing that was measured.

    Attributes:
        what: In a few words.
        samples: Variant to its samples in seconds; where variants took turns, the samples at one
            index are of one round.
        expected: What must hold of them.
    """

    what: str
    samples: Mapping[str, Sequence[float]]
    expected: Sequence[Expectation] = ()

    def median(self, variant: str) -> float | None:
        """A variant's median in seconds, or None when it was not measured."""
        samples = self.samples.get(variant)
        return statistics.median(samples) if samples else None

    def ratio(self, variant: str, base: str) -> float | None:
        """How many times the base a variant takes: the median of the rounds' ratios.

        On a busy machine the samples of one round are slow together, so their ratio tells more
        than that of two medians.
        """
        above, below = self.samples.get(variant), self.samples.get(base)
        if not above or not below:
            return None
        if len(above) != len(below):
            return statistics.median(above) / statistics.median(below)
        return statistics.median(a / b for a, b in zip(above, below, strict=True))


@dataclass(frozen=True)
class Expectation:
    """What must hold of a row.

    Attributes:
        text: Such as ``"≤ 1.3x docker run"``.
        holds: Says whether it does; None when a variant it needs was not measured.
    """

    text: str
    holds: Callable[[Row], bool | None]


@dataclass(frozen=True)
class Effort:
    """How much time the measurement may take.

    Attributes:
        rounds: How often the variants take turns.
        tests: Tests per class, where the cost of a test is measured.
    """

    rounds: int
    tests: int


@dataclass(frozen=True)
class Subject:
    """A table of rows with the same variants.

    Attributes:
        name: What one types to have it measured.
        title: What the table says, as a sentence.
        variants: The columns.
        ratios: Further columns: a variant, and the one it is divided by.
        measure: Yields the rows as they are known.
    """

    name: str
    title: str
    variants: Sequence[str]
    measure: Callable[[Effort], Sequence[Row]]
    ratios: Sequence[tuple[str, str]] = ()


def at_most(seconds: float, variant: str = OURS) -> Expectation:
    """A median of so many seconds at most."""
    return _expected(f"≤ {seconds:g} s", lambda row: row.median(variant), lambda it: it <= seconds)


def at_most_times(limit: float, base: str, variant: str = OURS) -> Expectation:
    """At most so many times what another variant takes."""
    text = f"≤ {limit:g}x {base}"
    return _expected(text, lambda row: row.ratio(variant, base), lambda it: it <= limit)


def sooner_than(times: float, base: str, variant: str = OURS) -> Expectation:
    """So many times sooner than another variant."""
    text = f"≥ {times:g}x sooner than {base}"
    return _expected(text, lambda row: row.ratio(base, variant), lambda it: it >= times)


def longer_by_at_most(seconds: float, base: str, variant: str = OURS) -> Expectation:
    """At most so many seconds more than another variant."""

    def difference(row: Row) -> float | None:
        more, less = row.median(variant), row.median(base)
        return None if more is None or less is None else more - less

    return _expected(f"≤ {base} + {seconds:g} s", difference, lambda it: it <= seconds)


def _expected(
    text: str, figure: Callable[[Row], float | None], fits: Callable[[float], bool]
) -> Expectation:
    def holds(row: Row) -> bool | None:
        value = figure(row)
        return None if value is None else fits(value)

    return Expectation(text, holds)
