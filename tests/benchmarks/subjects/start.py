"""The life of a class: to its first round trips, to notice of readiness or of a failed start."""

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
    at_most,
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


def measure_start(effort: Effort) -> Sequence[Row]:
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


START = Subject(
    name="start",
    title="From setUpClass to one round trip to each service (docker run: to its first answer)",
    variants=(FLOOR, OURS, THEIRS),
    ratios=((OURS, FLOOR), (THEIRS, OURS)),
    measure=measure_start,
)


def measure_idle(effort: Effort) -> Sequence[Row]:
    """All three together, each with an observer of its own."""
    names = list(NAMES)
    variants: Mapping[str, Measure] = {
        OURS: partial(ours, "watch", *names),
        **theirs("watch", *names),
    }
    samples = take_turns({"idle": variants}, rounds=effort.rounds)
    return [Row(NAMES[name], samples["idle", name], [at_most(0.03)]) for name in names]


IDLE = Subject(
    name="idle",
    title="Idle after ready: from a server's first answer until the library noticed",
    variants=(OURS, THEIRS),
    measure=measure_idle,
)


def measure_dead(effort: Effort) -> Sequence[Row]:
    """A Redis that refuses its configuration; `docker run` in the foreground returns at its end."""
    variants: Mapping[str, Measure] = {
        FLOOR: lambda: {"error": floor.refused("redis", ["--no-such-setting", "1"])},
        OURS: partial(ours, "dead"),
        **theirs("dead", "redis"),
    }
    samples = take_turns({"dead": variants}, rounds=effort.rounds)
    return [
        Row("from setUpClass to the error", samples["dead", "error"]),
        Row("from its exit to the error", samples["dead", "after exit"], [at_most(1)]),
    ]


DEAD = Subject(
    name="dead",
    title="A service that exits at start (testcontainers' deadline: 5 s here, 120 s by default)",
    variants=(FLOOR, OURS, THEIRS),
    ratios=((OURS, FLOOR), (THEIRS, OURS)),
    measure=measure_dead,
)
