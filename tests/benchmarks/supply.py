"""`pull` with every image present, and `save` and `load` beside docker's own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from typing import TYPE_CHECKING

from tests.benchmarks.machine import image
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
_MEMORY = 64.0  # MiB
_PULLS = 5  # a pull is short: so many per round
_NOTHING_TO_LOAD = 5


def measure(rounds: int) -> Sequence[Row]:
    """By turns, on the images of the three services, all of them present."""
    names, tags = " ".join(NAMES), " ".join(map(image, NAMES))
    pull = {"pull": {OURS: partial(_run, f"{sys.executable} -m orchestrator pull {names}")}}
    pulls = take_turns(pull, rounds=_PULLS * rounds)
    with tempfile.NamedTemporaryFile() as raw, tempfile.NamedTemporaryFile() as archive:
        docker = f"docker save --output {raw.name} {tags} && docker load --input {raw.name}"
        command = f"{sys.executable} -m orchestrator"
        ours = f"{command} save {archive.name} {names} && {command} load {archive.name}"
        variants = {DOCKER: partial(_run, docker), OURS: partial(_run, ours)}
        samples = take_turns({"supply": variants}, rounds=rounds)
    memory = samples["supply", "memory"]
    small = Expectation(f"≤ {_MEMORY:g} MiB of memory", lambda _: max(memory[OURS]) <= _MEMORY)
    both = (at_most_times(1.3, DOCKER), small)
    return [
        Row("pull, all present", pulls["pull", "seconds"], (at_most(0.15),)),
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


SUBJECT = Subject(
    "supply",
    "The supply of images: the three services' images, uncompressed",
    measure,
    ((OURS, DOCKER),),
)
