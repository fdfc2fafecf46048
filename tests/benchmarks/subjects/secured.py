"""What passwords and certificates add to the start of a broker."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.benchmarks.figures import Row, Subject, at_most_times
from tests.benchmarks.machine import run_worker
from tests.benchmarks.rounds import take_turns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.figures import Effort

PLAIN = "plaintext"
SECURED = ("sasl_plaintext", "ssl", "sasl_ssl")


def measure(effort: Effort) -> Sequence[Row]:
    """Every kind by turns."""
    variants = {kind: partial(_once, kind) for kind in (PLAIN, *SECURED)}
    samples = take_turns({"Kafka": variants}, rounds=effort.rounds)
    expected = [at_most_times(1.3, PLAIN, kind) for kind in SECURED]
    return [
        Row("setUpClass", samples["Kafka", "ready"], expected),
        Row("setUpClass and one round trip", samples["Kafka", "round trip"]),
    ]


def _once(security: str) -> Mapping[str, float]:
    figures: Mapping[str, float] = run_worker("secured", security)
    return figures


SUBJECT = Subject(
    name="secured",
    title="Kafka with passwords and certificates, from setUpClass on",
    variants=(PLAIN, *SECURED),
    ratios=tuple((kind, PLAIN) for kind in SECURED),
    measure=measure,
)
