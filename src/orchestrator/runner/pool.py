"""The workers of a run, and all that the parent waits for: their words, their ends, signals."""

from __future__ import annotations

import copy
import os
import random
import selectors
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from orchestrator.progress import VARIABLE, Listener
from orchestrator.runner.messages import MessageError, Setup
from orchestrator.runner.schedule import Idle, cpus
from orchestrator.runner.worker_handle import State, WorkerHandle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

    from orchestrator.runner.messages import Message
    from orchestrator.runner.options import Options
    from orchestrator.runner.results import UnitResult
    from orchestrator.runner.schedule import Schedule

_CONFIGURATION: Final = "COVERAGE_PROCESS_CONFIG"  # coverage 7.10 and later start by it
_ASKED_FOR: Final = (_CONFIGURATION, "COVERAGE_PROCESS_START")
_TICK: Final = 0.1  # seconds in which what has passed is seen, or a death whose signal got lost
_IDLE: Final = 0.5  # processors with nothing to do, for a start for which nobody waits
_WORTH_A_WORKER: Final = 0.3  # seconds; about what one takes to start
_ASKING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Counts Ctrl-C, SIGTERM and SIGHUP, and wakes a selector; also when a child ends."""

    def __init__(self) -> None:
        self.count = 0
        self.urgent = False  # whether it was not Ctrl-C alone: who sends SIGTERM sends SIGKILL soon
        self._ours, self._theirs = socket.socketpair()
        self._ours.settimeout(0)
        self._theirs.settimeout(0)
        self._previous: dict[int, Any] = {}
        self._wakeup = -1
        self.fileno = self._ours.fileno  # becomes readable on a signal

    def drain(self) -> None:
        """Forget that the selector was woken; the count stays."""
        with suppress(BlockingIOError):
            while self._ours.recv(1024):
                pass

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread may take signals
        self._wakeup = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        for number in _ASKING:
            # nohup and `command &` ignore a signal on purpose: keep it so
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._on_signal)
        # The wake-up descriptor does it: the handler has nothing to do.
        self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self._previous:
            signal.set_wakeup_fd(self._wakeup)
        self._ours.close()
        self._theirs.close()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.urgent |= number != signal.SIGINT
        self.count += 1


class WorkerPool:
    """Every live worker. On the way out none is left, whatever happened."""

    def __init__(
        self,
        options: Options,
        *,
        environ: Mapping[str, str],
        interrupts: Interrupts,
        told: Callable[..., None],
    ) -> None:
        self.workers: list[WorkerHandle] = []
        self.timeouts = options.timeouts
        self.kill_at: float | None = None  # when all workers are killed
        self.jobs = options.jobs or cpus()  # how many units may run at a time
        self.spares = True  # whether more workers than that may start services ahead
        self._idle = Idle()
        self._options = options
        self._told = told
        self._interrupts = interrupts
        self._started = 0
        self._looked = 0.0  # when it was last seen who is dead
        self._selector = selectors.DefaultSelector()
        self._selector.register(interrupts, selectors.EVENT_READ)
        self._progress = Listener()
        self._selector.register(self._progress, selectors.EVENT_READ)
        self._environ = {**environ, VARIABLE: self._progress.path}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.interrupt()
        while self.workers:
            for _event in self.events():
                pass
        self._selector.close()
        self._progress.close()

    def start(self, *, report: bool, spare: bool = False) -> None:
        """Start a worker, which collects the tests first; it reports them, or only that it has."""
        self._started += 1
        worker = WorkerHandle(
            number=self._started, environ=self._environ, timeouts=self.timeouts, spare=spare
        )
        self.workers.append(worker)
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)
        worker.channel.send(Setup(options=self._options, report=report))

    def hurry(self) -> None:
        """Have little time for every ending from now on, and none after that."""
        if self.kill_at is None:
            self.timeouts = self.timeouts.urgent()
            self.kill_at = time.monotonic() + self.timeouts.finish + self.timeouts.teardown
            for worker in self.workers:
                worker.timeouts = self.timeouts

    def running(self) -> list[UnitResult]:
        """The units that run."""
        return [worker.unit for worker in self.workers if worker.unit is not None]

    def assign(self, waiting: Schedule) -> None:
        """Give idle workers units, end those for whom there is none, start who is missing."""
        staying = [worker for worker in self.workers if worker.stays]
        for worker in staying:
            if worker.state is State.IDLE and worker.ahead and self._free:
                worker.run(worker.ahead)
                self._idle.restart()  # its first test waits for what comes before that
        for worker in staying:
            if worker.state is State.IDLE and worker.ahead is None:
                self._assign_one(waiting, worker)
        staying = [worker for worker in staying if worker.stays]
        busy = sum(worker.unit is not None or worker.ahead is not None for worker in staying)
        if self._options.jobs is None and staying and waiting.seconds < _WORTH_A_WORKER:
            return  # by the time another one is here, the work is done
        for _ in range(len(staying), min(self.jobs, busy + len(waiting))):
            self.start(report=False)
        if (
            waiting.starts_ahead
            and all(worker.unit is not None for worker in staying)
            and len(staying) < 2 * self.jobs
            and self._may_do_ahead()
        ):
            self.start(report=False, spare=True)
            self._idle.restart()

    def _assign_one(self, waiting: Schedule, worker: WorkerHandle) -> None:
        """Have an idle worker run a unit, or start services of one whose turn has not come."""
        ahead = [worker.ahead for worker in self.workers if worker.ahead is not None]
        taken = [*self.running(), *ahead]
        beside_tests = any(worker.up for worker in self.workers)  # not beside a start
        if (
            waiting.starts_ahead
            and ((self._free and ahead) or (beside_tests and self._may_do_ahead()))
            and (unit := waiting.next_ahead(taken, ran=worker.ran))
        ):
            worker.prepare(unit)  # the first to be ready runs
            self._idle.restart()
        elif self._free and (unit := waiting.next(taken, ran=worker.ran)):
            worker.run(unit)
        elif waiting.first_for(worker.ran) is None:
            worker.leave()

    @property
    def _free(self) -> bool:
        """Whether one more unit may run."""
        return len(self.running()) < self.jobs

    def _may_do_ahead(self) -> bool:
        """Whether to do something for which nobody waits: where a processor is idle."""
        return self.spares and not self._free and self._idle.processors >= _IDLE

    def events(self) -> Iterator[tuple[WorkerHandle, Message | None]]:
        """Wait for what workers say; None in place of a message means that one has died.

        Every message that a worker has sent comes before its death.
        """
        ready = self._wait()
        dead: list[WorkerHandle] = []
        if self._interrupts in ready or time.monotonic() > self._looked + _TICK:
            self._looked = time.monotonic()
            self._interrupts.drain()
            dead += [worker for worker in self.workers if worker.ended()]
        for worker in ready.values():
            if worker is not None and worker not in dead:
                worker.channel.flush()
                yield from self._heard(worker)
        for worker in dead:
            if worker.connected:
                yield from self._heard(worker)
            if worker.connected:
                self._selector.unregister(worker.channel)
            self.workers.remove(worker)
            yield worker, None
        now = time.monotonic()
        for worker in self.workers:
            worker.advance(now)
            if self.kill_at is not None and now >= self.kill_at:
                worker.kill()

    def _wait(self) -> Mapping[Any, WorkerHandle | None]:
        """Wait; what woke us, and the worker where it is one. News of progress are told."""
        due = [step for worker in self.workers if (step := worker.next_step) is not None]
        for worker in self.workers:
            if worker.connected:
                unsent = selectors.EVENT_WRITE if worker.channel.unsent else 0
                self._selector.modify(worker.channel, selectors.EVENT_READ | unsent, worker)
        now = time.monotonic()
        found = self._selector.select(max(0.0, min([_TICK, *(step - now for step in due)])))
        ready = {key.fileobj: key.data for key, _ in found}
        if self._progress in ready:
            for about, text, over in self._progress.news():
                self._told(about, text, over=over)
        return ready

    def _heard(self, worker: WorkerHandle) -> Iterator[tuple[WorkerHandle, Message]]:
        def lost() -> None:
            self._selector.unregister(worker.channel)
            worker.disconnected()

        try:
            for message in worker.channel.read(lost=lost):
                yield worker, message
        except MessageError:
            lost()


def environment(options: Options, *, run_id: str) -> dict[str, str]:
    """The workers' environment.

    They share the hash seed: tests generated from a set are collected in the same order everywhere.
    """
    hash_seed = str(random.randrange(1, 2**32))  # noqa: S311 - any will do
    environ = {"PYTHONHASHSEED": hash_seed, **os.environ, "ORCHESTRATOR_RUN": run_id}
    for name in ("logs", "timeline"):
        if (path := getattr(options, name)) is not None:
            environ[f"ORCHESTRATOR_{name.upper()}"] = str(Path(path).absolute())
    return environ


@contextmanager
def measured_workers(environ: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """Yield the environment in which workers are measured as this process is.

    What they, and the processes that their tests start, have found is part of this process's data
    when the block ends. Without coverage, or where it measures subprocesses as it is configured
    (``patch = subprocess``), the environment is the same.
    """
    coverage: Any = sys.modules.get("coverage")
    current: Any = coverage.Coverage.current() if coverage else None
    configuration: Any = getattr(current, "config", None)
    if not hasattr(configuration, "serialize") or any(name in environ for name in _ASKED_FOR):
        yield environ
        return
    with tempfile.TemporaryDirectory(prefix="orchestrator-") as folder:
        configuration = copy.copy(configuration)
        configuration.parallel, configuration.data_file = True, str(Path(folder) / "workers")
        yield {**environ, _CONFIGURATION: configuration.serialize()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that nothing was measured: not in this process
            data = current.get_data()
        for path in Path(folder).iterdir():
            found = coverage.CoverageData(str(path))
            with suppress(coverage.CoverageException):  # of a worker that was killed
                found.read()
                data.update(found)
