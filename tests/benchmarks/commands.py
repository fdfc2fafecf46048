"""What single commands take: the import; `pull` with nothing to pull; `save` and `load`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from typing import TYPE_CHECKING

from tests.benchmarks.machine import image, run
from tests.benchmarks.measuring import (
    OURS,
    Expectation,
    Row,
    Subject,
    at_most,
    at_most_times,
    take_turns,
)
from tests.benchmarks.start import NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.measuring import Figures

DOCKER = "docker"
_TIMES = 10  # an import or a pull is short: so many per round
_NOTHING_TO_LOAD = 5
_STATEMENT = "from orchestrator import Kafka, Postgres, Redis, ServicesMixin"
_SCRIPT = f"""
import json, time, unittest
began = time.process_time()
{_STATEMENT}
print(json.dumps(dict(seconds=time.process_time() - began)))
"""


def measure_import(rounds: int) -> Sequence[Row]:
    """Each time in a new Python; that it loads nothing foreign is a test."""
    once = partial(run, sys.executable, "-c", _SCRIPT)
    once()  # the first import may write byte code
    turns = {"import": {OURS: lambda: json.loads(once())}}
    samples = take_turns(turns, rounds=_TIMES * rounds)
    return [Row(_STATEMENT, samples["import", "seconds"], [at_most(0.03)])]


def measure_supply(rounds: int) -> Sequence[Row]:
    """By turns, on the images of the three services, all of them present."""
    command, names, tags = f"{sys.executable} -m orchestrator", " ".join(NAMES), map(image, NAMES)
    pull = {"pull": {OURS: partial(_run, f"{command} pull {names}")}}
    pulls = take_turns(pull, rounds=_TIMES * rounds)
    with tempfile.NamedTemporaryFile() as raw, tempfile.NamedTemporaryFile() as archive:
        docker = f"docker save -o {raw.name} {' '.join(tags)} && docker load -i {raw.name}"
        ours = f"{command} save {archive.name} {names} && {command} load {archive.name}"
        variants = {DOCKER: partial(_run, docker), OURS: partial(_run, ours)}
        samples = take_turns({"supply": variants}, rounds=rounds)
    most = max(samples["supply", "memory"][OURS])
    both = [at_most_times(1.3, DOCKER), Expectation("≤ 64 MiB of memory", lambda _: most, 64)]
    return [
        Row("pull, all present", pulls["pull", "seconds"], [at_most(0.15)]),
        Row("save and load", samples["supply", "seconds"], both),
    ]


def _run(command: str) -> Figures:
    """Seconds of a shell's command, and MiB of the largest of its processes."""
    argv = ["bash", "-c", command]
    began = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, _NOTHING_TO_LOAD):
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return {"seconds": seconds, "memory": usage.ru_maxrss / 1024}


IMPORT = Subject(
    "import", "Importing, in a new Python after unittest: processor time", measure_import
)
SUPPLY = Subject(
    "supply",
    "The supply of images: the three services' images, uncompressed",
    measure_supply,
    ((OURS, DOCKER),),
)
