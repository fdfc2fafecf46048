"""What clean state adds to each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.figures import OURS, Row, Subject, at_most
from tests.benchmarks.machine import run_worker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.figures import Effort

_KINDS: Mapping[str, tuple[str, str]] = {
    "unused": ("no service", "nothing"),
    "none": ("Postgres, isolation none", "a query on a new connection"),
    "schema": ("Postgres, a schema", "a query on a new connection"),
    "clone": ("Postgres, a clone of ten tables", "a query on a new connection"),
    "flush": ("Redis, flushed", "a hundred keys"),
    "topic": ("Kafka", "a topic"),
    "record": ("Kafka", "a topic, a record produced and consumed"),
    "fenced": ("Kafka, strict", "a topic"),
}
_EXPECTED = {"topic": [at_most(0.030)]}


def measure(effort: Effort) -> Sequence[Row]:
    """One class after another: medians over many tests level out what the machine does."""
    rows: dict[str, Row] = {}
    for kind, (isolation, use) in _KINDS.items():
        figures = run_worker("isolation", kind, str(effort.tests))
        untouched, used = f"{isolation}: untouched", f"{isolation}: {use}"
        rows.setdefault(untouched, Row(untouched, {OURS: figures["untouched"]}))
        rows[used] = Row(used, {OURS: figures["used"]}, _EXPECTED.get(kind, ()))
    return list(rows.values())


SUBJECT = Subject(
    name="isolation",
    title="A test, from startTest to stopTest",
    variants=(OURS,),
    measure=measure,
)
