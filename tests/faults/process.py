"""Starting owners, talking to them, and seeing which processes are left."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from orchestrator.engine.api import Label

ROOT: Final = Path(__file__).resolve().parents[2]
DEADLINE: Final = 180.0  # as long as a busy machine may take


class OwnerProcess:
    """A running ``tests.faults.owner``."""

    def __init__(
        self,
        ending: str,
        *,
        options: Mapping[str, object],
        env: Mapping[str, str],
        before: Sequence[str] = (),
    ) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed in close()
        self._lines = b""
        self._process = subprocess.Popen(
            [*before, sys.executable, "-m", "tests.faults.owner", ending, json.dumps(options)],
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout
        self.pid = self._process.pid
        self.session = ""

    def expect(self, word: str) -> dict[str, Any]:
        """Read what it says until it says this; AssertionError at the deadline."""
        deadline = time.monotonic() + DEADLINE
        while (left := deadline - time.monotonic()) > 0:
            line, newline, rest = self._lines.partition(b"\n")
            if newline:
                self._lines = rest
                said: dict[str, Any] = json.loads(line)
                self.session = said.get("session", self.session)
                if said["word"] == word:
                    return said
            elif select.select([self._output], [], [], left)[0]:
                data = os.read(self._output.fileno(), 65536)
                if not data:
                    break
                self._lines += data
        raise AssertionError(f"the owner did not say {word!r}; stderr:\n{self.errors()}")

    def go(self) -> float:
        """Give the go-ahead that `Owner.ready` waits for; the moment it was given."""
        assert self._process.stdin is not None
        now = time.monotonic()
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return now

    def kill(self, number: int = signal.SIGKILL) -> float:
        """Send a signal to the process alone; the moment it was sent."""
        now = time.monotonic()
        os.kill(self.pid, number)
        return now

    def wait(self) -> int:
        """Its exit status as subprocess gives it: minus n for signal n."""
        return self._process.wait(DEADLINE)

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        return self._process.poll()

    def errors(self) -> str:
        """What it wrote on stderr."""
        return os.pread(self._errors.fileno(), 1 << 20, 0).decode(errors="replace")

    def watchdogs(self) -> list[int]:
        """The pids of its watchdogs."""
        return processes_with(f"{Label.SESSION}={self.session}")

    def await_watchdogs(self, *, seconds: float = DEADLINE) -> None:
        """Wait until they have ended; AssertionError at the deadline."""
        wait_until_no_process_with(f"{Label.SESSION}={self.session}", seconds=seconds)

    def close(self) -> None:
        """End it, if it still runs, and let go of its pipes."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:  # unread go-aheads
                continue


def processes_with(word: str, *, where: str = "cmdline") -> list[int]:
    """The pids of all processes that have this among their arguments, or in their ``environ``."""
    found = []
    for path in Path("/proc").glob(f"[0-9]*/{where}"):
        with contextlib.suppress(OSError):
            if word.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def wait_until_no_process_with(argument: str, *, seconds: float = DEADLINE) -> None:
    """Wait until no process has this among its arguments; AssertionError at the deadline."""
    said = f"processes with {argument} are left"
    await_that(lambda: not processes_with(argument), said, seconds=seconds, pause=0.1)


def await_that(
    condition: Callable[[], object],
    otherwise: str | Callable[[], str],
    *,
    seconds: float = DEADLINE,
    pause: float = 0.01,
) -> None:
    """Wait until a condition holds; AssertionError at the deadline, with what there is to say."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            told = otherwise if isinstance(otherwise, str) else otherwise()
            raise AssertionError(f"after {seconds:g} s: {told}")
        time.sleep(pause)


def listens(address: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
        return True
    return False
