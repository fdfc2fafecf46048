"""What `import orchestrator` costs a test module that has imported unittest."""

from __future__ import annotations

import json
import subprocess
import sys
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
_THEIRS = ", ".join(f"testcontainers.community.{name}" for name in ("postgres", "redis", "kafka"))
_SCRIPT = """
import sys, time
before = set(sys.modules)
began = time.process_time()
import {modules}
seconds = time.process_time() - began
loaded = {{name.partition(".")[0] for name in set(sys.modules) - before}}
foreign = loaded - sys.stdlib_module_names - {{"orchestrator", "testcontainers"}}
print([seconds, len(foreign)])
"""


def measure(effort: Effort) -> Sequence[Row]:
    """Each import in a new Python, by turns."""
    variants: dict[str, Measure] = {
        UNITTEST: lambda: _import("unittest"),
        OURS: lambda: _import("unittest, orchestrator"),
    }
    if has_testcontainers():
        variants[THEIRS] = lambda: _import(f"unittest, {_THEIRS}", python=THEIR_PYTHON)
    for once in variants.values():
        once()  # the first import may write byte code
    samples = take_turns({"import": variants}, rounds=_TIMES * effort.rounds)
    foreign = samples["import", "foreign"]
    none = Expectation("no third-party module", lambda _: set(foreign[OURS]) == {0.0})
    expected = (longer_by_at_most(0.03, UNITTEST), none)
    return [Row("import", samples["import", "seconds"], expected)]


def _import(modules: str, *, python: str | Path = sys.executable) -> Mapping[str, float]:
    done = subprocess.run(
        [str(python), "-c", _SCRIPT.format(modules=modules)],
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
