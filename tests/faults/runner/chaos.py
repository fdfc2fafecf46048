# ruff: noqa: T201, S311 - a script that prints a table, and dice that need not be secret
"""Signals to workers at random, run after run, for ``ci/chaos``: nothing is lost, hung or left."""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sized
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from orchestrator.engine import connect
from orchestrator.engine.api import Label
from orchestrator.sessions import snapshot
from orchestrator.settings import Settings
from tests.faults.process import processes_with
from tests.integration.runner.case import TAG, WORKER

SIGNALS: Final = (signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGSTOP)
COLUMNS: Final = ("ok", "error", "not-run", "lost", "doubled", "processes", "resources", "hung")
HANG: Final = 300.0
GRACE: Final = 15.0
SUITE: Final = """
import random, time, unittest
from orchestrator import Redis, ServicesMixin

class Plain(unittest.TestCase):
    @classmethod
    def setUpClass(cls): time.sleep(0.05)

class Served(ServicesMixin, unittest.TestCase):
    cache = Redis(memory="64m")

def plain(self): time.sleep(random.uniform(0, 0.02))
def served(self):
    self.assertIsNone(self.cache.client.get("key"))
    self.cache.client.set("key", "value")
    time.sleep(random.uniform(0, 0.2))

def load_tests(loader, tests, pattern):
    suite = unittest.TestSuite()
    for base, body, classes, size in ((Plain, plain, {plain}, 25), (Served, served, {served}, 10)):
        for number in range(classes):
            tests = {{f"test_{{it:03}}": body for it in range(size)}} | {{"__module__": __name__}}
            cls = type(f"{{base.__name__}}{{number}}", (base,), tests)
            suite.addTests(loader.loadTestsFromTestCase(cls))
    return suite
"""


def main() -> int:
    """Run everything; 0 when nothing was lost, hung or left."""
    parser = argparse.ArgumentParser(prog="ci/chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--tests", type=int, default=1000, help="plain tests in each run")
    parser.add_argument("--services", type=int, default=4, help="classes with a real server")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    plain, served = -(-arguments.tests // 25), arguments.services
    expected = {f"Plain{n}.test_{it:03}" for n in range(plain) for it in range(25)}
    expected |= {f"Served{n}.test_{it:03}" for n in range(served) for it in range(10)}
    headings = [*(number.name for number in SIGNALS), *COLUMNS, "status", "seconds"]
    print(f"seed {arguments.seed}\n{''.join(f'{word:>10}' for word in headings)}", flush=True)
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="orchestrator-chaos-") as folder:
        (Path(folder) / "test_chaos.py").write_text(SUITE.format(plain=plain, served=served))
        for _ in range(arguments.runs):
            row = run(Path(folder), expected, jobs=arguments.jobs, chance=chance)
            print("".join(f"{row[word]:>10}" for word in headings), flush=True)
            total += row
    print(
        f"{arguments.runs} runs, {sum(total[it.name] for it in SIGNALS)} signals, "
        f"{sum(total[it] for it in COLUMNS[:3])} results: {total['lost'] + total['doubled']} lost, "
        f"{total['hung']} hung, {total['processes'] + total['resources']} left behind, "
        f"{total['unsound']} unsound"
    )
    return 1 if total["unsound"] else 0


def run(folder: Path, expected: set[str], *, jobs: int, chance: random.Random) -> Counter[str]:
    """Run the suite once while its workers are being killed; what it came to."""
    run_id, tag = str(uuid.uuid4()), uuid.uuid4().hex
    tagged = partial(processes_with, f"{TAG}={tag}", where="environ")
    report = folder / "junit.xml"
    report.unlink(missing_ok=True)
    began, row = time.monotonic(), Counter[str]()
    options = ["-j", str(jobs), "--timeout", "10", "--junit", str(report)]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "test", *options],
            cwd=folder,
            env=os.environ | {"ORCHESTRATOR_RUN": run_id, TAG: tag},
            stdout=log,
            stderr=log,
        ) as process,
    ):
        while process.poll() is None and time.monotonic() - began < HANG:
            with suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0.2, 1.2))
            victims = sorted({*tagged()} & {*processes_with(WORKER)})
            if victims and process.returncode is None:
                number = chance.choice(SIGNALS)
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(victims), number)
                    row[number.name] += 1
        row["hung"] = int(process.returncode is None)
        process.kill()
    row["seconds"] = round(time.monotonic() - began)
    row["resources"] = await_none(lambda: left(run_id))
    row["processes"] = await_none(tagged)
    for pid in tagged():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    seen = read(report, row)
    row["status"] = process.returncode
    row["lost"] = len(expected - seen.keys())
    row["doubled"] = sum(count > 1 for count in seen.values())
    wrong = any(row[word] for word in COLUMNS[3:])
    row["unsound"] = int(wrong or row["status"] != bool(row["error"] or row["not-run"]))
    return row


def left(run_id: str) -> Sized:
    """What the daemon has of a run."""
    with closing(connect(Settings.from_environment())) as engine:
        return snapshot(engine, {Label.RUN: run_id})[0]


def await_none(look: Callable[[], Sized]) -> int:
    """How much is there some time after a run: watchdogs may be at work."""
    deadline = time.monotonic() + GRACE
    while (count := len(look())) and time.monotonic() < deadline:
        time.sleep(0.1)
    return count


def read(report: Path, row: Counter[str]) -> Counter[str]:
    """Count outcomes into a row; how often each test was reported."""
    seen: Counter[str] = Counter()
    for case in ET.parse(report).iter("testcase") if report.exists() else ():
        skipped = case.find("skipped")
        if case.find("error") is not None or case.find("failure") is not None:
            row["error"] += 1
        else:
            row["ok" if skipped is None else skipped.get("type", "")] += 1
        if case.get("name", "").startswith("test_"):
            seen[f"{case.get('classname', '').partition('.')[2]}.{case.get('name')}"] += 1
    return seen


if __name__ == "__main__":
    sys.exit(main())
