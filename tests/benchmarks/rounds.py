"""Variants take turns, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Measure = Callable[[], Mapping[str, float]]


def take_turns(
    scenarios: Mapping[str, Mapping[str, Measure]], *, rounds: int
) -> Mapping[tuple[str, str], Mapping[str, Sequence[float]]]:
    """Run A B C, A B C, … of each scenario.

    Args:
        scenarios: Name to variant to a function that measures once and returns its figures in
            seconds.
        rounds: How often each gets its turn.

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
