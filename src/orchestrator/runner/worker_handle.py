"""One worker process as the parent sees it: what it is doing, and how it is being ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import ExitStack, suppress
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from orchestrator.runner.channel import ParentEnd, ParentScores
from orchestrator.runner.messages import Prepare, RunUnit, Stop, Written
from orchestrator.runner.results import Output
from orchestrator.runner.unpatched import DUMP, INTERRUPT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from orchestrator.runner.options import Timeouts
    from orchestrator.runner.results import Test, UnitResult

_LONGEST_READ: Final = 1 << 22
_CHUNK: Final = 1 << 16


class State(Enum):
    """What a worker is doing."""

    COLLECTING = auto()
    IDLE = auto()
    PREPARING = auto()
    RUNNING = auto()
    LEAVING = auto()


class Ending(Enum):
    """Why the parent interrupts or kills a worker: the first reason counts."""

    NONE = auto()
    TIMEOUT = auto()
    ASKED = auto()


def _path_to_archive(environ: Mapping[str, str]) -> dict[str, str]:
    """Where this package is in an archive (a zipapp), the path by which ``-m`` finds it there."""
    archive = getattr(__spec__.loader, "archive", None)
    if archive is None:
        return {}
    others = environ.get("PYTHONPATH")
    path = os.path.abspath(archive)  # noqa: PTH100 - links stay
    return {"PYTHONPATH": os.pathsep.join(filter(None, (path, others)))}


class WorkerHandle:
    """A worker, in a session (and so a process group) of its own."""

    def __init__(
        self, *, number: int, environ: Mapping[str, str], timeouts: Timeouts, spare: bool = False
    ) -> None:
        self.number = number
        self.timeouts = timeouts
        self.spare = spare  # whether nobody needs it
        self.state = State.COLLECTING
        self.unit: UnitResult | None = None  # that it runs
        self.ahead: UnitResult | None = None  # whose services it has started, or is starting
        self.up = False  # whether its unit is past the start of its services
        self.ran: set[str] = set()  # the keys of all that it was given
        self.inner = 0, ""  # the ordinal of a test that runs another one, and the other's title
        self.phase = ""  # the last fixture that began, such as setUpClass (module.Class)
        self.owner = ""  # the class it is at; empty in a module's fixtures
        self.shown = Written()  # what is reported already of its output
        self.ending = Ending.NONE
        self.killed = False
        self.served = False  # whether it ever ran a class with services
        self.secrets: tuple[str, ...] = ()  # to mask in the logs of its services
        self.connected = True
        self._unseen: deque[int] = deque()  # the ordinals that have not been seen to be over
        self._hung: int | None = None  # of the test that ran when the time was up
        self._steps: deque[tuple[float, Callable[[], None]]] = deque()
        self._deadline: float | None = None
        self._start_clock(timeouts.collecting)
        with ExitStack() as opened:  # all of it, or nothing where descriptors are used up
            self.output = OutputFiles(opened)
            self._scores = ParentScores(self.output.scores)
            ours, theirs = socket.socketpair()
            self.channel = ParentEnd(opened.enter_context(ours))
            lifeline, held = os.pipe()
            opened.callback(os.close, held)
            passed = (theirs.fileno(), lifeline, self.output.stacks, self.output.scores)
            with theirs, os.fdopen(lifeline):
                # -W, -X and their like; multiprocessing starts its children with the same function
                flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001
                module = ("-u", "-m", "orchestrator.runner.worker", *map(str, passed))
                self._popen = subprocess.Popen(
                    [sys.executable, *flags, *module],
                    stdin=subprocess.DEVNULL,
                    stdout=self.output.out,
                    stderr=self.output.err,
                    pass_fds=passed,
                    start_new_session=True,
                    env={**environ, **_path_to_archive(environ)},
                )
            self._opened = opened.pop_all()
        self.pid = self._popen.pid  # also the id of its process group

    @property
    def ordinal(self) -> int | None:
        """The place of the collected test that runs, or ran when the time was up."""
        if self.unit is None or self.ending is Ending.TIMEOUT:
            return self._hung
        found = self._scores.running
        return None if found in self.unit.over else found

    @property
    def test(self) -> Test | None:
        """The collected test that runs, or ran when the time was up."""
        ordinal = self.ordinal
        return None if self.unit is None or ordinal is None else self.unit.unit.tests[ordinal]

    @property
    def running(self) -> str:
        """The title of what that test runs, where that is another one."""
        ordinal, title = self.inner
        return title if ordinal == self.ordinal else ""

    def passed(self) -> Iterator[tuple[int, float]]:
        """The tests that have passed since the last time, and how long they took."""
        if self.unit is None or not self._unseen:
            return
        seconds = self._scores.seconds(len(self.unit.unit.tests))
        while self._unseen:
            ordinal = self._unseen[0]
            passed = ordinal < len(seconds) and seconds[ordinal] >= 0
            if not (passed or ordinal in self.unit.over or ordinal == self._hung):
                return
            self._unseen.popleft()
            if passed and ordinal != self._hung:
                yield ordinal, seconds[ordinal]

    @property
    def stays(self) -> bool:
        """Whether it is there to run more."""
        return self.state is not State.LEAVING and self.ending is Ending.NONE

    def prepare(self, unit: UnitResult) -> None:
        """Have it start the services of a unit that it will run."""
        self.ahead = unit
        self.ran.add(unit.unit.key)
        self.served = True
        self.state = State.PREPARING
        self.class_began()
        self.channel.send(Prepare(unit=unit.unit.key, ids=_ids(unit)))

    def run(self, unit: UnitResult) -> None:
        """Give it a unit."""
        self.unit, self.ahead = unit, None
        self.ran.add(unit.unit.key)
        self.served |= bool(unit.unit.services)
        self.up = not unit.unit.services
        self.state = State.RUNNING
        self.inner, self.phase, self.owner = (0, ""), "", ""
        self._unseen = deque(unit.open)
        self._scores.clear(len(unit.unit.tests))
        self.class_began()
        self.channel.send(RunUnit(unit=unit.unit.key, ids=_ids(unit), order=tuple(unit.open)))

    def release(self) -> None:
        """It is done with its unit, with collecting, or with what it did ahead."""
        self.unit = self._deadline = None
        if self.state in (State.COLLECTING, State.PREPARING, State.RUNNING):
            self.state = State.IDLE

    def class_began(self) -> None:
        """A class begins: it has the whole timeout."""
        self._start_clock(self.timeouts.unit_class)

    def _start_clock(self, seconds: float | None) -> None:
        self.since = time.monotonic()  # when the class began
        self._deadline = None if seconds is None else self.since + seconds

    # Endings: a row of steps, each harder than the one before

    def leave(self) -> None:
        """Let it exit, if it is not on its way already."""
        self.state = State.LEAVING
        self._deadline = None
        self.channel.send(Stop())
        self._plan((self.timeouts.leave, self._kill))

    def stop(self, *, limited: bool) -> None:
        """Let it finish its test, tear down and exit; limited, not for ever."""
        self.state = State.LEAVING
        self.channel.send(Stop())
        if limited:
            self._plan(
                (self.timeouts.finish, self._interrupt), (self.timeouts.teardown, self._kill)
            )

    def interrupt(self) -> None:
        """Interrupt its test and let it tear down."""
        self._interrupt()
        self._plan((self.timeouts.teardown, self._kill))

    def disconnected(self) -> None:
        """It cannot be heard any more: it is about to die, or tears down and exits by itself."""
        self.connected = False
        if self.stays:
            self._plan((self.timeouts.teardown, self._kill))

    def kill(self) -> None:
        """End it now, and its process group with it."""
        self._ended_by(Ending.ASKED)
        self._kill()

    def advance(self, now: float) -> None:
        """Take the steps that are due."""
        if self._deadline is not None and self._deadline <= now:
            self._time_out()
        while self._steps and self._steps[0][0] <= now:
            self._steps.popleft()[1]()

    @property
    def next_step(self) -> float | None:
        """When something is due, on the monotonic clock."""
        due = [when for when, _ in self._steps]
        if self._deadline is not None:
            due.append(self._deadline)
        return min(due, default=None)

    def _time_out(self) -> None:
        """Have it write its stacks, then interrupt it."""
        self._hung = self.ordinal
        self._ended_by(Ending.TIMEOUT)
        self._signal(DUMP)
        if self.state is State.COLLECTING:  # nothing to tear down yet
            self._plan((self.timeouts.dump, self._kill))
        else:
            self._plan((self.timeouts.dump, self._interrupt), (self.timeouts.teardown, self._kill))

    def _ended_by(self, why: Ending) -> None:
        self._deadline = None
        if self.ending is Ending.NONE:
            self.ending = why

    def _plan(self, *steps: tuple[float, Callable[[], None]]) -> None:
        self._steps.clear()
        when = time.monotonic()
        for seconds, step in steps:
            when += seconds
            self._steps.append((when, step))

    def _interrupt(self) -> None:
        self._ended_by(Ending.ASKED)
        self._signal(INTERRUPT)

    def _kill(self) -> None:
        self.killed = True
        self._steps.clear()
        self._kill_group()

    # The process

    def ended(self) -> bool:
        """Whether it has ended; it stays a zombie until `reap`, so its pid cannot be reused."""
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return (
            self._popen.returncode is not None or os.waitid(os.P_PID, self.pid, options) is not None
        )

    def reap(self) -> int:
        """Kill what is left of its group; returns its status, negative for a signal."""
        self._kill_group()
        return self._popen.wait()

    def close(self) -> None:
        """Close the socket, drop the output, let the worker's watchdog remove what is left."""
        self._opened.close()

    def _signal(self, number: int) -> None:
        """Send a signal, and wake it where it is stopped."""
        if self._popen.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
                os.kill(self.pid, signal.SIGCONT)

    def _kill_group(self) -> None:
        if self._popen.returncode is None:
            # macOS says EPERM for a group in which only zombies are left
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)


class OutputFiles:
    """A worker's stdout, stderr, dumped stacks and scores: unlinked files that the parent reads.

    There is no pipe that a grandchild could hold open, and raw writes are captured like prints.
    """

    def __init__(self, opened: ExitStack) -> None:
        def kept(file: int) -> int:
            opened.callback(os.close, file)
            return file

        self.out, self.err, self.stacks = (kept(_unlinked_file(os.O_APPEND)) for _ in range(3))
        # In memory: a full disk would kill who writes into a map of its file.
        in_memory = getattr(os, "memfd_create", None)  # not on macOS
        self.scores = kept(in_memory("orchestrator") if in_memory else _unlinked_file())

    def written(self) -> Written:
        """How much is there."""
        out, err = (os.fstat(file).st_size for file in (self.out, self.err))
        return Written(out=out, err=err)

    def read(self, start: Written, end: Written | None = None) -> Output:
        """What was written between two moments; of very much, the end."""
        end = end or self.written()
        out, err = _read(self.out, start.out, end.out), _read(self.err, start.err, end.err)
        return Output(out=out, err=err)

    def read_stacks(self) -> str:
        """The stacks that it wrote because it hung or died."""
        return _read(self.stacks, 0, os.fstat(self.stacks).st_size)

    def stdout(self, start: Written, end: Written) -> Iterator[bytes]:
        """All that was written to stdout between two moments, as it is."""
        place = start.out
        while chunk := os.pread(self.out, min(_CHUNK, max(0, end.out - place)), place):
            place += len(chunk)
            yield chunk


def _ids(unit: UnitResult) -> tuple[str, ...]:
    return tuple(test.id for test in unit.unit.tests)


def _read(file: int, start: int, end: int) -> str:
    shown = max(start, end - _LONGEST_READ)
    text = os.pread(file, max(0, end - shown), shown).decode(errors="backslashreplace")
    return f"… {shown - start} bytes left out …\n{text}" if shown > start else text


def _unlinked_file(flags: int = 0) -> int:
    """A file without a name; with O_APPEND a test that truncates it leaves no hole."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-") as folder:
        return os.open(
            os.path.join(folder, "output"),  # noqa: PTH118 - os.open takes it as it is
            flags | os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
            0o600,
        )
