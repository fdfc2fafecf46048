"""What a measurement is: samples by variant, their medians and ratios, what is expected of them."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Figures = Mapping[str, float]  # what was measured, to seconds
Measure = Callable[[], Figures]

FLOOR = "docker run"
OURS = "orchestrator"
THEIRS = "testcontainers"


@dataclass(frozen=True)
class Expectation:
    """What must hold of a row; `figure` is None when that was not measured."""

    text: str
    figure: Callable[["Row"], float | None]
    limit: float
    missed: str = "MISSED"

    def verdict(self, row: "Row") -> str:
        """Whether it holds, in a line."""
        value = self.figure(row)
        told = "not measured" if value is None else "met" if value <= self.limit else self.missed
        return f"  expected of {row.what}: {self.text}: {told}"


@dataclass(frozen=True)
class Row:
    """One thing that was measured: seconds, of one round at one index where variants took turns."""

    what: str
    samples: Mapping[str, Sequence[float]]
    expected: Sequence[Expectation] = ()

    def median(self, variant: str) -> float | None:
        """A variant's median in seconds, or None when it was not measured."""
        samples = self.samples.get(variant)
        return statistics.median(samples) if samples else None

    def ratio(self, variant: str, base: str) -> float | None:
        """How many times the base a variant takes: the median of the rounds' own ratios."""
        above, below = self.samples.get(variant), self.samples.get(base)
        if not above or not below:
            return None
        return statistics.median(a / b for a, b in zip(above, below, strict=True))


@dataclass(frozen=True)
class Subject:
    """A table of rows: what one types to have it, what it says, how it is measured in N rounds."""

    name: str
    title: str
    measure: Callable[[int], Sequence[Row]]
    ratios: Sequence[tuple[str, str]] = ()  # further columns: a variant, and what it is divided by

    def table(self, rows: Sequence[Row]) -> str:
        """Medians and ratios; below them, whether expectations hold."""
        variants = list(dict.fromkeys(variant for row in rows for variant in row.samples))
        lines = [["", *variants, *(f"{above} ÷ {below}" for above, below in self.ratios)]]
        for row in rows:
            ratios = [row.ratio(above, below) for above, below in self.ratios]
            told = ["-" if ratio is None else f"{ratio:.2f}x" for ratio in ratios]
            lines.append([row.what, *(_seconds(row.median(it)) for it in variants), *told])
        first, *widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = (
            "   ".join([f"  {what.ljust(first)}", *map(str.rjust, figures, widths)])
            for what, *figures in lines
        )
        verdicts = (wanted.verdict(row) for row in rows for wanted in row.expected)
        return "\n".join([self.title, *aligned, *verdicts])


def take_turns(
    scenarios: Mapping[str, Mapping[str, Measure]], *, rounds: int
) -> Mapping[tuple[str, str], Mapping[str, Sequence[float]]]:
    """Run variants A B C, A B C, …: scenario and figure to variant to samples."""
    samples: dict[tuple[str, str], dict[str, list[float]]]
    samples = defaultdict(lambda: defaultdict(list))
    for _ in range(rounds):
        for scenario, variants in scenarios.items():
            for variant, measure in variants.items():
                for figure, seconds in measure().items():
                    samples[scenario, figure][variant].append(seconds)
    return samples


def at_most(seconds: float) -> Expectation:
    """A median of so many seconds on the issue's machine: what nothing in the run compares with."""
    text = f"≤ {seconds:g} s on the issue's machine"
    return Expectation(text, lambda row: row.median(OURS), seconds, missed="not on this one")


def at_most_times(limit: float, base: str, variant: str = OURS) -> Expectation:
    """At most so many times what another variant takes."""
    text = f"{variant} ≤ {limit:.3g}x {base}"
    return Expectation(text, lambda row: row.ratio(variant, base), limit)


def _seconds(value: float | None) -> str:
    """A duration in the unit one reads it best in."""
    if value is None:
        return "-"
    return f"{value:.2f} s" if abs(value) >= 1 else f"{1000 * value:.1f} ms"
