"""Whole suites under the runner, and single commands: the import, `pull`, `save` and `load`."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.benchmarks.floor import run_classes
from tests.benchmarks.machine import THEIR_PYTHON, image, run, run_worker
from tests.benchmarks.measuring import (
    FLOOR,
    OURS,
    THEIRS,
    Expectation,
    Figures,
    Measure,
    Row,
    Subject,
    at_most,
    at_most_times,
    take_turns,
)
from tests.benchmarks.start import NAMES

UNITTEST = "unittest"
ONE, TWO = "-j1", "-j2"
ONCE = f'{TWO}, scope="run"'
SHARED = 'scope="process"'
_RUNNER = ("orchestrator", "test", "-q")
_HEAD = """
import time, unittest
from orchestrator import Kafka, Postgres, Redis, ServicesMixin

def note():
    with open("moments", "a") as file:
        print(time.monotonic(), file=file)

def migrate(engine):
    time.sleep(3)
    with engine.begin() as connection:
        connection.exec_driver_sql("create table migrated(id integer)")

class Migrated(ServicesMixin):
    db = Postgres(migrate=migrate, scope="{scope}")
"""
_TRIVIAL = "import unittest\nclass Test{number}(unittest.TestCase):\n" + "".join(
    f"    def test_{number}(self): pass\n" for number in range(20)
)
_THREE = f"""{_HEAD}
class Test{{number}}(ServicesMixin, unittest.TestCase):
    db, cache, events = (it(scope="{{scope}}") for it in (Postgres, Redis, Kafka))
    def test_it(self):
        note()
        with self.db.connect() as connection:
            connection.execute("select 1")
        self.cache.client.ping()
        time.sleep({{seconds}})
        note()
"""
_MIGRATED = f"""{_HEAD}
class Test{{number}}(Migrated, unittest.TestCase):
    def test_it(self):
        with self.db.connect() as connection:
            connection.execute("select * from migrated")
"""


def measure_runner(rounds: int) -> Sequence[Row]:
    """Many classes with tests that do nothing."""
    plain = partial(_suite, _TRIVIAL, 500, UNITTEST, "-q")
    ours = partial(_suite, _TRIVIAL, 500, *_RUNNER, TWO)
    samples = take_turns({"trivial": {UNITTEST: plain, OURS: ours}}, rounds=3 * rounds)
    return [
        Row(
            "10,000 tests in 500 classes",
            samples["trivial", "seconds"],
            (at_most_times(3, UNITTEST),),
        )
    ]


def measure_warm(rounds: int) -> Sequence[Row]:
    """A class whose servers were made ready when its last run had ended."""
    turns: dict[str, Measure] = {OURS: _warm}
    if THEIR_PYTHON.exists():
        services = [f"{name}={image(name)}" for name in NAMES]
        turns[THEIRS] = partial(run_worker, "theirs", *services, python=THEIR_PYTHON)
    samples = take_turns({"warm": turns}, rounds=rounds)
    expected = [at_most_times(1 / 8, THEIRS)]
    return [Row("whole process, three services", samples["warm", "process"], expected)]


def _warm() -> Figures:
    """Seconds of the second run, begun when the keeper is ready."""
    with tempfile.TemporaryDirectory() as folder:
        test = _THREE.replace("{seconds}", "0").replace("{scope}", "class").replace("{number}", "")
        Path(folder, "test_class.py").write_text(test)
        warm = {"ORCHESTRATOR_WARM": "5m", "TMPDIR": folder}
        command = partial(run, sys.executable, "-m", "orchestrator", "warm", more=warm)
        test_run = partial(run, sys.executable, "-m", "unittest", "-q", cwd=folder, more=warm)
        try:
            test_run()
            while [it["state"] for it in json.loads(command("--json"))] != ["ready"]:
                time.sleep(0.1)
            began = time.monotonic()
            test_run()
            return {"process": time.monotonic() - began}
        finally:
            while json.loads(command("--json")):
                command("--stop")


def measure_parallel(rounds: int) -> Sequence[Row]:
    """The same classes with one worker and with two; `docker run` of the same, two at a time."""
    turns = {jobs: partial(_suite, _THREE, 8, *_RUNNER, jobs) for jobs in (ONE, TWO)}
    turns[ONCE] = partial(_suite, _THREE, 8, *_RUNNER, TWO, scope="run")
    turns[FLOOR] = partial(run_classes, NAMES, count=8, jobs=2)
    samples = take_turns({"classes": turns}, rounds=max(1, rounds // 2))
    expected = [at_most_times(0.69, FLOOR, TWO), at_most_times(0.29, FLOOR, ONCE)]
    what = "eight classes with three services each"
    return [Row(what, samples["classes", "seconds"], expected)]


def measure_next(rounds: int) -> Sequence[Row]:
    """What a class waits for when the one before it has taken as long as a start does."""
    start = _suite(_THREE, 1, *_RUNNER, ONE)["start"]
    turns = {
        "next": {OURS: partial(_suite, _THREE, 4, *_RUNNER, ONE, seconds=f"{start:.2f}")},
        "migrations": {
            OURS: partial(_suite, _MIGRATED, 10, *_RUNNER, ONE),
            SHARED: partial(_suite, _MIGRATED, 10, *_RUNNER, ONE, scope="process"),
        },
    }
    samples = take_turns(turns, rounds=rounds)
    migrated = samples["migrations", "seconds"]
    return [
        Row("a test's end to the next class's test", samples["next", "gap"], [at_most(0.1)]),
        Row("ten classes, migrations of 3 s", migrated, [at_most_times(1.2, SHARED)]),
    ]


def _suite(
    template: str, count: int, *arguments: str, seconds: str = "0", scope: str = "class"
) -> Figures:
    """Seconds of a command that runs so many classes; the longest gap between two of them."""
    with tempfile.TemporaryDirectory() as folder:
        template = template.replace("{seconds}", seconds).replace("{scope}", scope)
        head, keyword, body = template.partition("class Test")
        classes = (keyword + body.replace("{number}", str(number)) for number in range(count))
        Path(folder, "test_classes.py").write_text(head + "".join(classes))
        began = time.monotonic()
        run(sys.executable, "-m", *arguments, cwd=folder)
        figures = {"seconds": time.monotonic() - began}
        moments = Path(folder, "moments")
        if moments.exists():
            times = [float(line) for line in moments.read_text().split()]
            figures["start"] = times[0] - began
            gaps = (after - before for before, after in zip(times[1::2], times[2::2], strict=False))
            figures["gap"] = max(gaps, default=0.0)
        return figures


RUNNER = Subject(
    "runner", "Tests that do nothing: what the runner costs", measure_runner, ((OURS, UNITTEST),)
)
PARALLEL = Subject(
    "parallel",
    "Many classes, from the command's start to its end",
    measure_parallel,
    ((TWO, FLOOR), (ONCE, FLOOR)),
)
WARM = Subject("warm", "ORCHESTRATOR_WARM, from the second run on", measure_warm, ((THEIRS, OURS),))
NEXT = Subject("next", "One class after another, with one worker", measure_next, ((OURS, SHARED),))


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
