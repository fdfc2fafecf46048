"""What a measurement is: samples by variant, their medians and ratios, what is expected."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Figures = Mapping[str, float]  # what was measured, to seconds
    Measure = Callable[[], Figures]

FLOOR = "docker run"
OURS = "orchestrator"
THEIRS = "testcontainers"


@dataclass(frozen=True)
class Expectation:
    """What must hold of a row, and whether it does: None when that was not measured."""

    text: str
    holds: Callable[[Row], bool | None]


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
        return statistics.median(a / b for a, b in zip(above, below, strict=True))


@dataclass(frozen=True)
class Subject:
    """A table of rows.

    Attributes:
        name: What one types to have it measured.
        title: What the table says, as a sentence.
        measure: Measures in so many rounds.
        ratios: Further columns: a variant, and the one it is divided by.
    """

    name: str
    title: str
    measure: Callable[[int], Sequence[Row]]
    ratios: Sequence[tuple[str, str]] = ()


def take_turns(
    scenarios: Mapping[str, Mapping[str, Measure]], *, rounds: int
) -> Mapping[tuple[str, str], Mapping[str, Sequence[float]]]:
    """Run variants A B C, A B C, … of each scenario: what else the machine does meets all alike.

    Returns:
        Scenario and figure to variant to samples.
    """
    samples: dict[tuple[str, str], dict[str, list[float]]]
    samples = defaultdict(lambda: defaultdict(list))
    for _ in range(rounds):
        for scenario, variants in scenarios.items():
            for variant, measure in variants.items():
                for figure, seconds in measure().items():
                    samples[scenario, figure][variant].append(seconds)
    return samples


def at_most(seconds: float, variant: str = OURS) -> Expectation:
    """A median of so many seconds at most."""
    return _expected(f"≤ {seconds:g} s", lambda row: row.median(variant), seconds)


def at_most_times(limit: float, base: str, variant: str = OURS) -> Expectation:
    """At most so many times what another variant takes."""
    return _expected(f"≤ {limit:.3g}x {base}", lambda row: row.ratio(variant, base), limit)


def _expected(text: str, figure: Callable[[Row], float | None], limit: float) -> Expectation:
    def holds(row: Row) -> bool | None:
        value = figure(row)
        return None if value is None else value <= limit

    return Expectation(text, holds)
