"""What the parallel runner costs beside plain unittest, on tests that do nothing."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.figures import OURS, Row, Subject, longer_by_at_most
from tests.benchmarks.machine import worker_environment
from tests.benchmarks.rounds import take_turns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.figures import Effort

UNITTEST = "unittest"
_CLASSES = 20
_FEW, _MANY = 1000, 5000


def measure(effort: Effort) -> Sequence[Row]:
    """Two sizes of suite, so that the cost of a test is told apart from that of a start."""
    scenarios = {
        f"{tests:,} tests in {_CLASSES} classes": {
            UNITTEST: partial(_run, tests, "-m", "unittest", "-q"),
            OURS: partial(_run, tests, "-m", "orchestrator", "test", "-q", "-j", "1"),
        }
        for tests in (_FEW, _MANY)
    }
    samples = take_turns(scenarios, rounds=3 * effort.rounds)
    few, many = (samples[name, "seconds"] for name in scenarios)
    each = {
        variant: [
            (b - a) / (_MANY - _FEW) for a, b in zip(few[variant], many[variant], strict=True)
        ]
        for variant in few
    }
    return [
        Row(next(iter(scenarios)), few, (longer_by_at_most(0.5, UNITTEST),)),
        Row(list(scenarios)[1], many),
        Row("each further test", each, (longer_by_at_most(0.001, UNITTEST),)),
    ]


def _run(tests: int, *arguments: str) -> Mapping[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_trivial.py").write_text(_source(tests))
        began = time.monotonic()
        subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=worker_environment(),
            capture_output=True,
            check=True,
        )
        return {"seconds": time.monotonic() - began}


def _source(tests: int) -> str:
    methods = "".join(f"    def test_{number}(self): pass\n" for number in range(tests // _CLASSES))
    classes = (f"class Test{number}(unittest.TestCase):\n{methods}" for number in range(_CLASSES))
    return "import unittest\n" + "".join(classes)


SUBJECT = Subject(
    name="runner",
    title="Tests that do nothing, with one worker: what the runner costs",
    variants=(UNITTEST, OURS),
    ratios=((OURS, UNITTEST),),
    measure=measure,
)
