"""Classes with three services each: one worker, two workers, and what the daemon can do at best."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks import floor
from tests.benchmarks.figures import FLOOR, Row, Subject, sooner_than
from tests.benchmarks.machine import worker_environment
from tests.benchmarks.rounds import take_turns
from tests.benchmarks.variants import NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.figures import Effort

ONE, TWO, EIGHT = "-j 1", "-j 2", "-j 8"
_CLASSES, _MANY = 8, 100
_SOURCE = """
import unittest
from orchestrator import Kafka, Postgres, Redis, ServicesMixin
"""
_SMALL = """
class Test{number}(ServicesMixin, unittest.TestCase):
    cache = Redis(memory="32m")
    def test_it(self):
        self.cache.client.ping()
"""
_CLASS = """
class Test{number}(ServicesMixin, unittest.TestCase):
    db, cache, events = Postgres(), Redis(), Kafka()
    def test_it(self):
        with self.db.connect() as connection:
            connection.execute("select 1")
        self.cache.client.ping()
"""


def measure(effort: Effort) -> Sequence[Row]:
    """The same classes and the same containers, one after another and two at a time."""
    scenarios = {
        "classes": {ONE: partial(_run, "1"), TWO: partial(_run, "2")},
        FLOOR: {ONE: partial(_floor, 1), TWO: partial(_floor, 2)},
    }
    samples = take_turns(scenarios, rounds=max(1, effort.rounds // 2))
    what = f"{_CLASSES} classes with three services each"
    many = [_run("8", _SMALL, _MANY)["seconds"]]  # fails when addresses run out
    return [
        Row(what, samples["classes", "seconds"], (sooner_than(1.6, ONE, TWO),)),
        Row(f"`docker run` of the same {3 * _CLASSES} containers", samples[FLOOR, "seconds"]),
        Row(f"{_MANY} classes with a network and a Redis each", {EIGHT: many}),
    ]


def _run(jobs: str, template: str = _CLASS, count: int = _CLASSES) -> Mapping[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        classes = (template.format(number=number) for number in range(count))
        (Path(folder) / "test_served.py").write_text(_SOURCE + "".join(classes))
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", "test", "-q", "-j", jobs],
            cwd=folder,
            env=worker_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the classes failed:\n{done.stderr}")
        return {"seconds": time.monotonic() - began}


def _floor(at_once: int) -> Mapping[str, float]:
    """Start, await and remove the containers of each class by hand, so many classes at once."""
    # The recipes fix host ports, so each lane of classes has its own.
    lanes = [list(floor.recipes(list(NAMES)).values()) for _ in range(at_once)]
    began = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda lane: _lane(lane, _CLASSES // at_once), lanes))
    return {"seconds": time.monotonic() - began}


def _lane(recipes: Sequence[floor.Recipe], classes: int) -> None:
    for _ in range(classes):
        floor.run_together(recipes)


SUBJECT = Subject(
    name="parallel",
    title="Classes with Postgres, Redis and Kafka each, from the command's start to its end",
    variants=(ONE, TWO, EIGHT),
    ratios=((ONE, TWO),),
    measure=measure,
)
