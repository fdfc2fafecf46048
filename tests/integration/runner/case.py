"""A test case that writes a suite, runs the command on it, and looks for what it left behind."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import unittest
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.faults.process import await_that, processes_with

DEADLINE = 180.0  # a busy machine takes a minute for what takes seconds
WORKER = "orchestrator.runner.worker"
TAG = "ORCHESTRATOR_TEST_TAG"
_PREAMBLE = """
import os, signal, sys, time, unittest
def note(word):
    with open("ran", "a") as file: file.write(word + " ")
"""
_IMPATIENT = """
import argparse, dataclasses, sys
from orchestrator.runner import options
from orchestrator.runner.run import run_tests
parser = argparse.ArgumentParser()
options.configure(parser)
chosen = options.parsed(parser.parse_args())
impatient = dict(finish=1, teardown=1, leave=1, dump=0.2, collect={collect})
timeouts = dataclasses.replace(chosen.timeouts, **impatient)
sys.exit(run_tests(dataclasses.replace(chosen, timeouts=timeouts)))
"""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a run said."""

    status: int
    text: str
    stdout: str
    outcomes: dict[str, str]  # Class.test to "ok", "failure" …, or to a word for each report of it
    report: ET.Element

    @property
    def verdict(self) -> str:
        """The last line."""
        return self.text.rstrip().rpartition("\n")[2]


class RunnerTestCase(unittest.TestCase):
    """Runs ``orchestrator test`` on suites of its own, of which no process may be left."""

    def setUp(self) -> None:
        """Make an empty project, and a mark by which its processes are known."""
        self.project = Path(self.enterContext(tempfile.TemporaryDirectory())).resolve()
        self.tag = uuid.uuid4().hex
        self.addCleanup(self._check_nothing_runs)

    def write(self, **modules: str) -> None:
        """Write modules of the project."""
        for name, source in modules.items():
            text = _PREAMBLE + textwrap.dedent(source)
            (self.project / f"{name}.py").write_text(text, encoding="utf-8")

    def run_suite(self, *arguments: str, python: tuple[str, ...] = ()) -> Ran:
        """Run the command to its end, with options for the interpreter."""
        with self.started(*arguments, command=[*python, "-m", "orchestrator", "test"]) as running:
            return self.ended(running)

    def run_unittest(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the project under plain unittest."""
        return subprocess.run(
            [sys.executable, "-m", "unittest", *arguments],
            cwd=self.project,
            capture_output=True,
            text=True,
            check=False,
        )

    def run_impatiently(self, *arguments: str, collect: float = 10) -> Ran:
        """Run the command to its end; where it waits for seconds, let it wait for less."""
        with self.impatient(*arguments, collect=collect) as running:
            return self.ended(running)

    def impatient(
        self, *arguments: str, collect: float = 10
    ) -> AbstractContextManager[subprocess.Popen[str]]:
        """Start the command, waiting for a second only where it would wait for longer."""
        return self.started(*arguments, command=["-c", _IMPATIENT.format(collect=collect)])

    @contextmanager
    def started(
        self,
        *arguments: str,
        command: Sequence[str] = ("-m", "orchestrator", "test"),
        new_session: bool = False,
    ) -> Iterator[subprocess.Popen[str]]:
        """Start the command; at the end of the block it is over, one way or another."""
        with subprocess.Popen(
            [sys.executable, *command, "--junit", str(self.project / "junit.xml"), *arguments],
            cwd=self.project,
            env=os.environ | {TAG: self.tag},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
            start_new_session=new_session,
        ) as running:
            try:
                yield running
            finally:
                with suppress(ProcessLookupError):
                    running.kill()

    def ended(self, running: subprocess.Popen[str]) -> Ran:
        """Wait for a run and read its report."""
        stdout, text = running.communicate(timeout=DEADLINE)
        path = self.project / "junit.xml"
        report = ET.parse(path).getroot() if path.exists() else ET.Element("testsuites")
        outcomes = _outcomes(report)
        status = running.returncode
        return Ran(status=status, text=text, stdout=stdout, outcomes=outcomes, report=report)

    def wait_for_note(self, running: subprocess.Popen[str], words: str) -> None:
        """Wait until the run has said something; what it said before is gone."""
        assert running.stderr is not None
        for line in running.stderr:
            if words in line:
                return
        self.fail(f"the run never said {words!r}")

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Wait until something holds; fail at the deadline."""
        await_that(condition, lambda: f"{what} is waited for: {self.processes()}")

    def wait_for_file(self, name: str) -> None:
        """Wait until a test has written a file."""
        self.wait_for((self.project / name).exists, f"the file {name}")

    def noted(self) -> list[str]:
        """What tests have noted since the last time."""
        path = self.project / "ran"
        words = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return words

    def processes(self) -> list[int]:
        """The pids of the live processes that descend from the run."""
        return processes_with(f"{TAG}={self.tag}", where="environ")

    def _check_nothing_runs(self) -> None:
        try:
            self.wait_for(lambda: not self.processes(), "every process to end")
        finally:
            for pid in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _outcomes(report: ET.Element) -> dict[str, str]:
    outcomes: dict[str, str] = {}
    for case in report.iter("testcase"):
        owner = case.get("classname", "").partition(".")[2] or case.get("classname", "")
        name = f"{owner}.{case.get('name')}"
        word = _word(case)
        outcomes[name] = f"{outcomes[name]}, {word}" if name in outcomes else word
    return outcomes


def _word(case: ET.Element) -> str:
    for tag in ("error", "failure"):
        if case.find(tag) is not None:
            return tag
    skipped = case.find("skipped")
    return "ok" if skipped is None else skipped.get("type", "skipped")
