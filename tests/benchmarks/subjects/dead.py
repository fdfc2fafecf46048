"""How soon a service that exits at start is reported: a Redis that refuses its configuration."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.benchmarks import floor
from tests.benchmarks.figures import FLOOR, OURS, THEIRS, Row, Subject, at_most
from tests.benchmarks.rounds import take_turns
from tests.benchmarks.variants import ours, theirs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.figures import Effort
    from tests.benchmarks.rounds import Measure


def measure(effort: Effort) -> Sequence[Row]:
    """By turns; the floor is `docker run` in the foreground, which returns when Redis exits."""

    def raw() -> Mapping[str, float]:
        return {"error": floor.refused("redis", ["--no-such-setting", "1"])}

    variants: Mapping[str, Measure] = {
        FLOOR: raw,
        OURS: partial(ours, "dead"),
        **theirs("dead", "redis"),
    }
    samples = take_turns({"dead": variants}, rounds=effort.rounds)
    return [
        Row("from setUpClass to the error", samples["dead", "error"]),
        Row("from its exit to the error", samples["dead", "after exit"], [at_most(1)]),
    ]


SUBJECT = Subject(
    name="dead",
    title="A service that exits at start (testcontainers' deadline: 5 s here, 120 s by default)",
    variants=(FLOOR, OURS, THEIRS),
    ratios=((OURS, FLOOR), (THEIRS, OURS)),
    measure=measure,
)
