"""The life of a class: to its first round trips, to notice of readiness."""

from collections.abc import Mapping, Sequence
from functools import partial

from tests.benchmarks import floor
from tests.benchmarks.machine import THEIR_PYTHON, image, run_worker
from tests.benchmarks.measuring import (
    FLOOR,
    OURS,
    THEIRS,
    Expectation,
    Measure,
    Row,
    Subject,
    at_most,
    at_most_times,
    take_turns,
)

NAMES = ("postgres", "redis", "kafka")
TOGETHER = "all three"
PLAIN, *SECURED = "plaintext", "sasl_plaintext", "ssl", "sasl_ssl"
SLOWEST = "slowest docker run"
_RATIOS = ((OURS, FLOOR), (THEIRS, OURS))


def measure_start(rounds: int) -> Sequence[Row]:
    """Each service alone, then all three."""
    scenarios = {**{name: _variants(name) for name in NAMES}, TOGETHER: _variants(*NAMES)}
    samples = take_turns(scenarios, rounds=rounds)

    def row(scenario: str, figure: str, *expected: Expectation) -> Row:
        what = f"{scenario}: {figure}"
        return Row(what, samples[scenario, figure], expected)

    def started(scenario: str) -> Mapping[str, Sequence[float]]:
        return {FLOOR: samples[scenario, "ready"][FLOOR], **samples[scenario, "round trip"]}

    # Nothing can be sooner than the slowest of the three alone, with the machine to itself.
    alone = (samples[name, "ready"][FLOOR] for name in NAMES)
    slowest = [max(of_round) for of_round in zip(*alone, strict=True)]
    expected = (at_most_times(1.25, FLOOR), at_most_times(1 / 2.9, THEIRS))
    snapshot = {**started("postgres"), SLOWEST: slowest}
    return [
        Row("postgres, from a snapshot", snapshot, [at_most_times(0.37, SLOWEST)]),
        *(Row(name, started(name)) for name in NAMES[1:]),
        Row(TOGETHER, {**started(TOGETHER), FLOOR: slowest}, expected),
        Row(f"{TOGETHER}, `docker run` side by side too", started(TOGETHER)),
        row(TOGETHER, "ready"),
        row(TOGETHER, "teardown", at_most(0.03)),
        row(TOGETHER, "process"),
        row(TOGETHER, "processors", at_most(3.5)),
        row("redis", "process", at_most_times(0.8, THEIRS)),
    ]


def _variants(*names: str) -> Mapping[str, Measure]:
    variants: dict[str, Measure] = {
        FLOOR: partial(floor.run_together, names),
        OURS: partial(run_worker, "ours", "start", *names),
    }
    if THEIR_PYTHON.exists():
        services = [f"{name}={image(name)}" for name in names]
        variants[THEIRS] = partial(run_worker, "theirs", *services, python=THEIR_PYTHON)
    return variants


def measure_idle(rounds: int) -> Sequence[Row]:
    """All three together, each with an observer of its own."""
    turns = {"idle": {OURS: partial(run_worker, "ours", "watch", *NAMES)}}
    samples = take_turns(turns, rounds=rounds)
    return [Row(name, samples["idle", name], [at_most(0.03)]) for name in NAMES]


def measure_secured(rounds: int) -> Sequence[Row]:
    """A broker of every kind by turns."""
    kinds = {
        kind: partial(run_worker, "ours", "start", f"kafka:{kind}") for kind in (PLAIN, *SECURED)
    }
    samples = take_turns({"kafka": kinds}, rounds=rounds)
    expected = [at_most_times(1.3, PLAIN, kind) for kind in SECURED]
    return [
        Row("setUpClass", samples["kafka", "ready"], expected),
        Row("setUpClass and one round trip", samples["kafka", "round trip"]),
    ]


START = Subject(
    "start",
    "From setUpClass to one round trip to each service (docker run: to its first answer)",
    measure_start,
    _RATIOS,
)
IDLE = Subject(
    "idle", "Idle after ready: from a server's first answer until the library noticed", measure_idle
)
SECURED_KAFKA = Subject(
    "secured",
    "Kafka with passwords and certificates, from setUpClass on",
    measure_secured,
    tuple((kind, PLAIN) for kind in SECURED),
)
