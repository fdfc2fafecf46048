"""`pull` with every image present, and `save` and `load` beside docker's own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.images import find_lock, resolve_image
from orchestrator.settings import Settings
from tests.benchmarks.figures import (
    OURS,
    Expectation,
    Row,
    Subject,
    at_most,
    at_most_times,
)
from tests.benchmarks.machine import ROOT
from tests.benchmarks.rounds import take_turns
from tests.benchmarks.variants import NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.figures import Effort

DOCKER = "docker"
_MEMORY = 64.0  # MiB
_KIB = 1024
_PULLS = 5  # a pull is short: so many per round


def measure(effort: Effort) -> Sequence[Row]:
    """By turns, on the images of the three services, all of them present."""
    orchestrator = (sys.executable, "-m", "orchestrator")
    pulls = take_turns(
        {"pull": {OURS: lambda: _run(*orchestrator, "pull", *NAMES)}}, rounds=_PULLS * effort.rounds
    )
    with tempfile.TemporaryDirectory() as folder:
        raw, archive = Path(folder) / "raw.tar", Path(folder) / "ours.tar"

        def docker() -> Mapping[str, float]:
            save = _run("docker", "save", "--output", str(raw), *_tags())
            load = _run("docker", "load", "--quiet", "--input", str(raw))
            return _joined(save, load)

        def ours() -> Mapping[str, float]:
            save = _run(*orchestrator, "save", str(archive), *NAMES)
            load = _run(*orchestrator, "load", str(archive), may_end_with=(0, 5))
            return _joined(save, load)

        samples = take_turns({"supply": {DOCKER: docker, OURS: ours}}, rounds=effort.rounds)
    memory = samples["supply", "memory"]
    small = Expectation(f"≤ {_MEMORY:g} MiB of memory", lambda _: max(memory[OURS]) <= _MEMORY)
    both = (at_most_times(1.3, DOCKER), small)
    return [
        Row("pull, all present", pulls["pull", "seconds"], (at_most(0.15),)),
        Row("save", samples["supply", "save"]),
        Row("load", samples["supply", "load"]),
        Row("save and load", samples["supply", "seconds"], both),
    ]


def _tags() -> Sequence[str]:
    settings = Settings.from_environment()
    lock = find_lock(settings)
    found = (resolve_image(None, default=n, lock=lock, settings=settings) for n in NAMES)
    return [image.reference.tagged for image in found]


def _run(*argv: str, may_end_with: Sequence[int] = (0,)) -> Mapping[str, float]:
    """Seconds and MiB of one process."""
    began = time.perf_counter()
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in may_end_with:
        raise RuntimeError(f"{' '.join(argv)} ended with {process.returncode}")
    return {"seconds": seconds, "memory": usage.ru_maxrss / _KIB}


def _joined(save: Mapping[str, float], load: Mapping[str, float]) -> Mapping[str, float]:
    return {
        "save": save["seconds"],
        "load": load["seconds"],
        "seconds": save["seconds"] + load["seconds"],
        "memory": max(save["memory"], load["memory"]),
    }


SUBJECT = Subject(
    name="supply",
    title="The supply of images: the three services' images, uncompressed",
    variants=(DOCKER, OURS),
    ratios=((OURS, DOCKER),),
    measure=measure,
)
