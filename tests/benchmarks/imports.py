"""What `import orchestrator` costs a test module that has imported unittest."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING

from tests.benchmarks.machine import run
from tests.benchmarks.measuring import OURS, Expectation, Row, Subject, at_most, take_turns

if TYPE_CHECKING:
    from collections.abc import Sequence

_TIMES = 10  # an import is short: so many per round
_STATEMENT = "from orchestrator import Kafka, Postgres, Redis, ServicesMixin"
_SCRIPT = f"""
import json, sys, time, unittest
before, began = set(sys.modules), time.process_time()
{_STATEMENT}
seconds = time.process_time() - began
loaded = {{name.partition(".")[0] for name in set(sys.modules) - before}}
foreign = loaded - sys.stdlib_module_names - {{"orchestrator"}}
print(json.dumps({{"seconds": seconds, "foreign": len(foreign)}}))
"""


def measure(rounds: int) -> Sequence[Row]:
    """Each time in a new Python."""
    once = partial(run, sys.executable, "-c", _SCRIPT)
    once()  # the first import may write byte code
    turns = {"import": {OURS: lambda: json.loads(once())}}
    samples = take_turns(turns, rounds=_TIMES * rounds)
    foreign = samples["import", "foreign"][OURS]
    none = Expectation("no third-party module", lambda _: not any(foreign))
    return [Row(_STATEMENT, samples["import", "seconds"], (at_most(0.03), none))]


SUBJECT = Subject("import", "Importing, in a new Python after unittest: processor time", measure)
