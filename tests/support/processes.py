"""Running a user's test file in a process of its own, and watching the daemon meanwhile."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import unittest
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from unittest import mock

from orchestrator.cli import main
from orchestrator.engine import connect
from orchestrator.engine.api import Label
from orchestrator.images import find_lock
from orchestrator.sessions import snapshot
from orchestrator.settings import Settings
from tests.faults.process import await_that

DEADLINE: Final = 180.0  # a busy machine takes a minute for what takes seconds


class Ran(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str


def run_command(*argv: str, env: Mapping[str, str] | None = None) -> Ran:
    """Run one of our commands in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, env or {}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            status = main(argv)
        except SystemExit as leave:
            status = int(leave.code or 0)
    return Ran(status, out.getvalue(), err.getvalue())


def python_beside_the_daemon(*argv: str, folder: Path, run: str, name: str) -> Sequence[str]:
    """The command that runs this machine's Python in a container, with the daemon's socket."""
    variables = {
        "container": "docker",
        "ORCHESTRATOR_RUN": run,
        "ORCHESTRATOR_IMAGES_LOCK": os.environ.get("ORCHESTRATOR_IMAGES_LOCK", ""),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    options = [word for key, value in variables.items() for word in ("-e", f"{key}={value}")]
    image = find_lock(Settings.from_environment()).entries["redis"].reference.pinned
    inside = f"cd {folder} && exec {sys.executable} {' '.join(argv)}"
    run_it = ("docker", "run", "--rm", "--name", name, "--volume", "/:/host", *options, image)
    return [*run_it, "chroot", "/host", "sh", "-c", inside]


class ProcessTestCase(unittest.TestCase):
    """A folder for a user's files, whose processes share a run of which nothing may be left."""

    def setUp(self) -> None:
        """Make the folder and the run."""
        super().setUp()
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.run_id = str(uuid.uuid4())
        self.environ = {**os.environ, "ORCHESTRATOR_RUN": self.run_id}
        self.engine = connect(Settings.from_environment())
        self.addCleanup(self.engine.close)
        self.addCleanup(self.await_nothing_left)

    def write(self, name: str, source: str) -> None:
        """Write one of the user's files."""
        (self.folder / name).write_text(textwrap.dedent(source), encoding="utf-8")

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Start ``python ARGV`` in the folder; it is killed if the test does not end it."""
        process = subprocess.Popen(
            [sys.executable, *argv],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.addCleanup(self._end, process)
        return process

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Wait for a process: its exit status and output."""
        output, _ = process.communicate(timeout=DEADLINE)
        return process.returncode, output

    def run_python(self, *argv: str) -> tuple[int, str]:
        """Run ``python ARGV`` in the folder to its end."""
        return self.finish(self.start(*argv))

    def left(self) -> Sequence[str]:
        """What the daemon has of this run."""
        found = snapshot(self.engine, {Label.RUN: self.run_id})[0]
        return [f"{item.kind} {item.name} {item.status}" for item in found]

    def await_nothing_left(self) -> None:
        """Fail unless the daemon soon has nothing of this run."""
        self.await_that(lambda: not self.left(), lambda: f"left behind: {self.left()}")

    def await_that(self, condition: Callable[[], bool], otherwise: Callable[[], str]) -> None:
        """Wait until a condition holds; fail at the deadline with what `otherwise` says."""
        await_that(condition, otherwise, pause=0.1)

    @staticmethod
    def _end(process: subprocess.Popen[str]) -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout:
            process.stdout.close()
