"""What `import orchestrator` costs a test module that has imported unittest."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

from tests.benchmarks.figures import OURS, THEIRS, Expectation, Row, Subject, longer_by_at_most
from tests.benchmarks.machine import ROOT, THEIR_PYTHON, has_testcontainers
from tests.benchmarks.rounds import take_turns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.benchmarks.figures import Effort
    from tests.benchmarks.rounds import Measure

UNITTEST = "unittest"
_TIMES = 10  # an import is short: so many per round
_OURS = "Kafka, Postgres, Redis, ServicesMixin"
_THEIRS = ", ".join(f"testcontainers.community.{name}" for name in ("postgres", "redis", "kafka"))
_SCRIPT = """
import sys, time
before = set(sys.modules)
began = time.process_time()
{statement}
seconds = time.process_time() - began
loaded = {{name.partition(".")[0] for name in set(sys.modules) - before}}
foreign = loaded - sys.stdlib_module_names - {{"orchestrator", "testcontainers"}}
print([seconds, len(foreign)])
"""


def measure(effort: Effort) -> Sequence[Row]:
    """Each import in a new Python, by turns."""
    package: dict[str, Measure] = {
        UNITTEST: partial(_import, "import unittest"),
        OURS: partial(_import, "import unittest, orchestrator"),
    }
    names: dict[str, Measure] = {
        **package,
        OURS: partial(_import, f"import unittest; from orchestrator import {_OURS}"),
    }
    if has_testcontainers():
        names[THEIRS] = partial(_import, f"import unittest, {_THEIRS}", python=THEIR_PYTHON)
    for once in names.values():
        once()  # the first import may write byte code
    scenarios = {"import orchestrator": package, f"from orchestrator import {_OURS}": names}
    samples = take_turns(scenarios, rounds=_TIMES * effort.rounds)

    foreign = {scenario: samples[scenario, "foreign"][OURS] for scenario in scenarios}
    none = Expectation("no third-party module", lambda row: set(foreign[row.what]) == {0.0})
    sooner = longer_by_at_most(0.03, UNITTEST)
    return [
        Row(what, samples[what, "seconds"], (sooner, none) if variants is package else (none,))
        for what, variants in scenarios.items()
    ]


def _import(statement: str, *, python: str | Path = sys.executable) -> Mapping[str, float]:
    done = subprocess.run(
        [str(python), "-c", _SCRIPT.format(statement=statement)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, foreign = json.loads(done.stdout)
    return {"seconds": seconds, "foreign": foreign}


SUBJECT = Subject(
    name="import",
    title="Importing, in a new Python: processor time, as others use the machine too",
    variants=(UNITTEST, OURS, THEIRS),
    ratios=((OURS, UNITTEST), (THEIRS, OURS)),
    measure=measure,
)
