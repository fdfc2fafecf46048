"""What clean state adds to each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.figures import OURS, Row, Subject, at_most
from tests.benchmarks.machine import run_worker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.figures import Effort, Expectation

_KINDS: Mapping[str, tuple[str, str]] = {
    "unused": ("no service", "nothing"),
    "none": ("Postgres, isolation none", "a query on a new connection"),
    "schema": ("Postgres, a schema", "a query on a new connection"),
    "transaction": ("Postgres, a transaction", "a query on a new connection"),
    "clone": ("Postgres, a clone of fifty tables", "a query on a new connection"),
    "flush": ("Redis, flushed", "a hundred keys"),
    "prefix": ("Redis, a prefix", "a hundred keys"),
    "topic": ("Kafka", "a topic"),
    "record": ("Kafka", "a topic, a record produced and consumed"),
}
# Of clean state alone, so of tests that leave the service alone; a topic exists once it is used.
_UNTOUCHED = {
    "schema": 0.005,
    "transaction": 0.001,
    "clone": 0.025,
    "flush": 0.001,
    "prefix": 0.002,
}
_USED = {"topic": 0.030}


def measure(effort: Effort) -> Sequence[Row]:
    """One class after another: medians over many tests level out what the machine does."""
    rows: dict[str, Row] = {}
    for kind, (isolation, use) in _KINDS.items():
        figures = run_worker("isolation", kind, str(effort.tests))
        untouched, used = f"{isolation}: untouched", f"{isolation}: {use}"
        rows.setdefault(
            untouched, Row(untouched, {OURS: figures["untouched"]}, _at_most(_UNTOUCHED, kind))
        )
        rows[used] = Row(used, {OURS: figures["used"]}, _at_most(_USED, kind))
    return list(rows.values())


def _at_most(limits: Mapping[str, float], kind: str) -> Sequence[Expectation]:
    return [at_most(limits[kind])] if kind in limits else []


SUBJECT = Subject(
    name="isolation",
    title="A test, from startTest to stopTest",
    variants=(OURS,),
    measure=measure,
)
