# ruff: noqa: T201, S311 - a script that prints a table, and dice that need not be secret
"""Random SIGKILL, SIGSEGV, SIGTERM and SIGSTOP to workers, run after run; ``ci/chaos`` calls it.

A table shows each run; the last line sums up what was lost, hung or left, which must be nothing.
"""

from __future__ import annotations

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
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from orchestrator.engine import connect
from orchestrator.engine.api import Label
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

SIGNALS: Final = (signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGSTOP)
PER_CLASS: Final = 25
HANG: Final = 300.0
GRACE: Final = 15.0
TAG: Final = "ORCHESTRATOR_CHAOS_TAG"
PLAIN: Final = """
class Plain{number}(unittest.TestCase):
    @classmethod
    def setUpClass(cls): time.sleep(0.05)
"""
SERVED: Final = """
class Served{number}(ServicesMixin, unittest.TestCase):
    cache = Redis(memory="64m")
"""
TEST: Final = """
    def test_{number:03}(self): time.sleep(random.uniform(0, 0.02))
"""
TEST_WITH_SERVICE: Final = """
    def test_{number:03}(self):
        self.assertIsNone(self.cache.client.get("key"))
        self.cache.client.set("key", "value")
        time.sleep(random.uniform(0, 0.2))
"""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The suite that is run: where it is, and the ids of its tests."""

    folder: Path
    expected: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one run came to."""

    status: int | None
    seconds: float
    sent: Counter[str]
    outcomes: Counter[str]
    lost: int
    doubled: int
    processes: int
    resources: int

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, hung, reported wrong, or left behind."""
        clean = not (self.lost or self.doubled or self.processes or self.resources)
        failed = bool(self.outcomes["error"] or self.outcomes["not-run"])
        return clean and self.status == int(failed)


def main() -> int:
    """Run everything; 0 when nothing was lost, hung or left."""
    parser = argparse.ArgumentParser(prog="ci/chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--tests", type=int, default=1000, help="plain tests in each run")
    parser.add_argument("--services", type=int, default=4, help="classes with a real server")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="orchestrator-chaos-") as folder:
        suite = write(Path(folder), tests=arguments.tests, served=arguments.services)
        print(HEADING, flush=True)
        results = []
        for number in range(1, arguments.runs + 1):
            results.append(run(suite, jobs=arguments.jobs, chance=chance))
            print(row(number, results[-1]), flush=True)
            for line in (suite.folder / "log").read_text().splitlines():
                if line.startswith("Not run:"):
                    print(f"    {line}", flush=True)
    return summary(results)


def write(folder: Path, *, tests: int, served: int) -> Suite:
    """Write the suite: many small classes, and some with a server of their own."""
    plain = -(-tests // PER_CLASS)
    parts = ["import random, time, unittest\nfrom orchestrator import Redis, ServicesMixin\n"]
    expected = set()
    for template, test, count, size in (
        (PLAIN, TEST, plain, PER_CLASS),
        (SERVED, TEST_WITH_SERVICE, served, 10),
    ):
        name = template.split()[1].partition("{")[0]
        for number in range(count):
            parts.append(template.format(number=number))
            parts += [test.format(number=it) for it in range(size)]
            expected |= {f"test_chaos.{name}{number}.test_{it:03}" for it in range(size)}
    (folder / "test_chaos.py").write_text("".join(parts), encoding="utf-8")
    return Suite(folder=folder, expected=frozenset(expected))


def run(suite: Suite, *, jobs: int, chance: random.Random) -> Result:
    """Run the suite once while its workers are being killed."""
    run_id, tag = str(uuid.uuid4()), uuid.uuid4().hex
    report = suite.folder / "junit.xml"
    report.unlink(missing_ok=True)
    began = time.monotonic()
    sent: Counter[str] = Counter()
    with (suite.folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "orchestrator", "test"),
                *("-j", str(jobs), "--timeout", "10", "--junit", str(report)),
            ],
            cwd=suite.folder,
            env=os.environ | {"ORCHESTRATOR_RUN": run_id, TAG: tag},
            stdout=log,
            stderr=log,
        )
        status = harass(process, tag, sent, chance)
    seconds = time.monotonic() - began
    at_once = left(run_id) if status is not None else ["hung"]
    outcomes, seen = read(report)
    return Result(
        status=status,
        seconds=seconds,
        sent=sent,
        outcomes=outcomes,
        lost=len(suite.expected - seen.keys()),
        doubled=sum(count > 1 for count in seen.values()),
        processes=len(survivors(tag)),
        resources=len(at_once),
    )


def harass(
    process: subprocess.Popen[bytes], tag: str, sent: Counter[str], chance: random.Random
) -> int | None:
    """Kill a random worker every now and then, until the run ends; None when it hung."""
    deadline = time.monotonic() + HANG
    while time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(chance.uniform(0.2, 1.2))
        victims = [pid for pid, command in tagged(tag) if b"orchestrator.runner" in command]
        if victims:
            number = chance.choice(SIGNALS)
            with suppress(ProcessLookupError):
                os.kill(chance.choice(victims), number)
                sent[number.name] += 1
    process.kill()
    process.wait()
    return None


def tagged(tag: str) -> list[tuple[int, bytes]]:
    """Every live process of a run, with its command line."""
    mark = f"{TAG}={tag}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                found.append((int(entry.name), (entry / "cmdline").read_bytes()))
    return found


def survivors(tag: str) -> list[tuple[int, bytes]]:
    """The processes of a run that are there some time after it."""
    deadline = time.monotonic() + GRACE
    while (found := tagged(tag)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid, _ in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


def left(run_id: str) -> Sequence[str]:
    """What the daemon still has of a run some time after it: watchdogs may be at work."""
    deadline = time.monotonic() + GRACE
    with closing(connect(Settings.from_environment())) as engine:
        while found := engine.labelled({Label.RUN: run_id}):
            if time.monotonic() > deadline:
                return [thing.name for thing in found]
            time.sleep(0.1)
    return []


def read(report: Path) -> tuple[Counter[str], Counter[str]]:
    """How many tests ended in each outcome, and how often each test was reported."""
    outcomes: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    if not report.exists():
        return outcomes, seen
    for case in ET.parse(report).iter("testcase"):
        skipped = case.find("skipped")
        if case.find("error") is not None or case.find("failure") is not None:
            outcomes["error"] += 1
        else:
            outcomes["ok" if skipped is None else skipped.get("type", "")] += 1
        if case.get("name", "").startswith("test_"):
            seen[f"{case.get('classname')}.{case.get('name')}"] += 1
    return outcomes, seen


HEADING: Final = (
    f"{'run':>3} {'KILL':>5} {'SEGV':>5} {'TERM':>5} {'STOP':>5} {'ok':>6} {'error':>6} "
    f"{'not run':>7} {'lost':>5} {'twice':>5} {'procs':>5} {'docker':>6} "
    f"{'status':>6} {'seconds':>7}"
)


def row(number: int, result: Result) -> str:
    """One line of the table."""
    sent = " ".join(f"{result.sent[name.name]:>5}" for name in SIGNALS)
    status = "hung" if result.status is None else str(result.status)
    return (
        f"{number:>3} {sent} {result.outcomes['ok']:>6} {result.outcomes['error']:>6} "
        f"{result.outcomes['not-run']:>7} {result.lost:>5} {result.doubled:>5} "
        f"{result.processes:>5} {result.resources:>6} {status:>6} {result.seconds:>7.1f}"
    )


def summary(results: Sequence[Result]) -> int:
    """Say what all runs came to."""
    signals = sum(result.sent.total() for result in results)
    tests = sum(result.outcomes.total() for result in results)
    lost = sum(result.lost + result.doubled for result in results)
    hung = sum(result.status is None for result in results)
    remains = sum(result.processes + result.resources for result in results)
    wrong = sum(not result.sound for result in results)
    print(
        f"{len(results)} runs, {signals} signals, {tests} results: "
        f"{lost} lost, {hung} hung, {remains} left behind, {wrong} unsound"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
