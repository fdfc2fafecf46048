"""From setUpClass to one round trip to each service, and the end of the class."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.benchmarks import floor
from tests.benchmarks.figures import (
    FLOOR,
    OURS,
    THEIRS,
    Row,
    Subject,
    at_most_times,
    sooner_than,
)
from tests.benchmarks.rounds import take_turns
from tests.benchmarks.variants import NAMES, ours, theirs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.figures import Effort
    from tests.benchmarks.rounds import Measure

    Samples = Mapping[str, Sequence[float]]

TOGETHER = "all three"


def measure(effort: Effort) -> Sequence[Row]:
    """Each service alone, then all three."""
    recipes = floor.recipes(list(NAMES))
    scenarios = {
        **{NAMES[name]: _variants([name], recipes[name].run) for name in NAMES},
        TOGETHER: _variants(list(NAMES), partial(floor.run_together, list(recipes.values()))),
    }
    samples = take_turns(scenarios, rounds=effort.rounds)

    def started(scenario: str) -> Samples:
        return {FLOOR: samples[scenario, "ready"][FLOOR], **samples[scenario, "round trip"]}

    # Nothing can be sooner than the slowest of the three alone, with the machine to itself.
    alone = (samples[name, "ready"][FLOOR] for name in NAMES.values())
    slowest = [max(of_round) for of_round in zip(*alone, strict=True)]
    expected = (at_most_times(1.3, FLOOR), sooner_than(2, THEIRS))
    return [
        *(Row(name, started(name)) for name in NAMES.values()),
        Row(TOGETHER, {**started(TOGETHER), FLOOR: slowest}, expected),
        Row(f"{TOGETHER}, `docker run` side by side too", started(TOGETHER)),
        Row(f"{TOGETHER}, without the round trips", samples[TOGETHER, "ready"]),
        *(Row(f"teardown: {name}", samples[name, "teardown"]) for name in scenarios),
    ]


def _variants(names: list[str], raw: Measure) -> Mapping[str, Measure]:
    return {FLOOR: raw, OURS: partial(ours, "start", *names), **theirs("start", *names)}


SUBJECT = Subject(
    name="start",
    title="From setUpClass to one round trip to each service (docker run: to its first answer)",
    variants=(FLOOR, OURS, THEIRS),
    ratios=((OURS, FLOOR), (THEIRS, OURS)),
    measure=measure,
)
