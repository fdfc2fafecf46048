"""One sample of each variant, from a worker of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.figures import THEIRS
from tests.benchmarks.images import image
from tests.benchmarks.machine import THEIR_PYTHON, has_testcontainers, run_worker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.benchmarks.rounds import Measure

NAMES = {"postgres": "Postgres", "redis": "Redis", "kafka": "Kafka"}


def ours(mode: str, *names: str) -> Mapping[str, float]:
    """A mode of workers/ours.py for some services."""
    figures: Mapping[str, float] = run_worker("ours", mode, *names)
    return figures


def theirs(mode: str, *names: str) -> Mapping[str, Measure]:
    """The same of workers/theirs.py, as a variant; none when it is not installed."""

    def once() -> Mapping[str, float]:
        services = [f"{name}={image(name)}" for name in names]
        figures: Mapping[str, float] = run_worker("theirs", mode, *services, python=THEIR_PYTHON)
        return figures

    return {THEIRS: once} if has_testcontainers() else {}
