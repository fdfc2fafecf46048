"""What is said about a worker that did not end as it should, and what is saved of its services.

Imported when there is need: what it takes to speak with the daemon costs a plain suite 0.1 s.
"""

from __future__ import annotations

import itertools
import json
import re
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.engine import connect
from orchestrator.engine.api import Label
from orchestrator.environment.context import write_log
from orchestrator.errors import OrchestratorError, indented
from orchestrator.runner.messages import LOST_CONTACT
from orchestrator.runner.results import Outcome, Problem
from orchestrator.runner.worker_handle import Ending
from orchestrator.services.options import masked
from orchestrator.sessions import remove_session, snapshot
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.engine.docker import Engine
    from orchestrator.runner.worker_handle import WorkerHandle
    from orchestrator.sessions import Thing

_LAST_LINES: Final = 60
_LONGEST_ANSWER: Final = 10.0  # seconds of the daemon: the run waits for this
_NOT_OF_TESTS: Final = re.compile(r'/runner/unpatched\.py", line \d+ in _wait|^Extension modules: ')
_BELOW_TESTS: Final = re.compile(
    r"/unittest/(case|suite|async_case)\.py|/runner/(result|suite)\.py"
)
_KILL_HINT: Final = "; if nobody killed it, the kernel did for lack of memory: see dmesg"


def crash(worker: WorkerHandle, *, status: int | None, logs: str = "") -> Problem:
    """The error of the test, or of the fixture, at which a worker hung or died.

    There is no exit status when it hung, was interrupted and has torn down.
    """
    title = worker.test.title if worker.test else worker.phase
    title = title or (worker.unit.unit.key if worker.unit else "collection")
    where = (worker.running or title).partition("\n")[0]
    if worker.ending is Ending.TIMEOUT or status is None:
        seconds = f"{worker.timeouts.unit_class:g} s (--timeout)"
        return _error(worker, title, f"{where} hung: its class took more than {seconds}", logs)
    said = f"worker {worker.number} (pid {worker.pid}) {_how_it_ended(worker, status)} in {where}"
    return _error(worker, title, said, logs)


def at_exit(worker: WorkerHandle, *, status: int, logs: str = "") -> Problem:
    """The error of a worker that ended otherwise than it was told to, when it ran no unit."""
    last = f", {worker.owner}" if worker.owner else ""
    said = (
        f"worker {worker.number} (pid {worker.pid}) {_how_it_ended(worker, status)} after its last "
        f"class{last} (did a test leave an exit handler or a thread behind?)"
    )
    return _error(worker, f"exit (worker {worker.number})", said, logs)


def failed_start(worker: WorkerHandle, *, status: int) -> str:
    """What to say about a worker that ended, with some exit status, while it collected."""
    if worker.ending is Ending.TIMEOUT:
        seconds = f"{worker.timeouts.collecting:g} s, the most that --timeout allows"
        said = f"Collecting the tests took more than {seconds}"
    else:
        said = f"A worker {_how_it_ended(worker, status)} while it collected the tests"
    return _with_output(said, worker)


def not_collected(text: str) -> Problem:
    """The error of a run, or of a worker, that could not collect the tests."""
    message = text.strip().splitlines()[-1]
    return Problem(
        outcome=Outcome.ERROR, title="collection", kind="NotCollected", message=message, text=text
    )


def _error(worker: WorkerHandle, title: str, said: str, logs: str = "") -> Problem:
    text = _with_output(said, worker) + (f"\n{logs}\n" if logs else "")
    kind = "TimedOut" if worker.ending is Ending.TIMEOUT else "Crashed"
    return Problem(outcome=Outcome.ERROR, title=title, kind=kind, message=said, text=text)


def _how_it_ended(worker: WorkerHandle, status: int) -> str:
    if status == LOST_CONTACT:
        return "lost its connection to the runner (did a test close descriptors not its own?)"
    if status >= 0:
        return f"exited with status {status}"
    hint = _KILL_HINT if -status == signal.SIGKILL and not worker.killed else ""
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}{hint}"


def _with_output(said: str, worker: WorkerHandle) -> str:
    """A line with the stacks that a worker has dumped, and the end of what it has written."""
    text = f"{said}\n"
    for heading, shown in (
        ("Its stacks:", _of_tests(worker.output.read_stacks())),
        ("Last output of the worker:", str(worker.output.read(worker.shown)).rstrip()),
    ):
        if shown:
            tail = "\n".join(shown.splitlines()[-_LAST_LINES:])
            text += f"\n{heading}\n{indented(tail)}\n"
    return text


def _of_tests(stacks: str) -> str:
    """Stacks without this runner's own thread, and without what is below a test or a fixture."""
    blocks = [
        block.split("\n")
        for block in stacks.strip().split("\n\n")
        if not _NOT_OF_TESTS.search(block)
    ]
    return "\n\n".join(
        "\n".join(itertools.takewhile(lambda line: not _BELOW_TESTS.search(line), block))
        for block in blocks
    )


class CrashLogs:
    """Takes the logs of dead workers' services, then removes all that the workers had started."""

    def __init__(self, *, run: str, folder: str | None) -> None:
        self._run = run
        self._folder = None if folder is None else Path(folder)
        self._engine: Engine | None = None
        self._lines = 0  # that are shown of each log

    def prepare(self) -> None:
        """Connect now: after a death every moment counts, others may sweep the containers away."""
        if self._engine is None:
            with suppress(OrchestratorError):  # no daemon, or a wrong setting: each class says so
                settings = Settings.from_environment()
                self._lines = settings.log_lines
                timeout = min(settings.engine_timeout, _LONGEST_ANSWER)
                self._engine = connect(replace(settings, engine_timeout=timeout))
                self._found(self._engine)  # opens a connection, which is kept

    def take(self, *, pid: int, secrets: Sequence[str]) -> str:
        """Save and remove what one dead worker, not yet reaped, left; returns what to say."""
        self.prepare()
        if self._engine is None:
            return "The logs of its services could not be read: no Docker daemon answers."
        try:
            things = [thing for thing in self._found(self._engine) if _owner(thing) == pid]
            said = [
                self._saved(self._engine, thing, secrets)
                for thing in things
                if thing.kind == "container" and Label.SERVICE in thing.labels
            ]
            for session in sorted({thing.labels[Label.SESSION] for thing in things}):
                left = remove_session(self._engine, session)
                said += [f"left behind: {it.name}: {it.reason}" for it in left]
        except OrchestratorError as error:
            return f"The logs of its services could not be read: {error}"
        return "\n".join(filter(None, said))

    def close(self) -> None:
        """Close the connection to the daemon."""
        if self._engine is not None:
            self._engine.close()

    def _found(self, engine: Engine) -> Sequence[Thing]:
        return snapshot(engine, {Label.MARK: "1", Label.RUN: self._run})[0]

    def _saved(self, engine: Engine, container: Thing, secrets: Sequence[str]) -> str:
        alias = container.labels[Label.SERVICE]
        try:
            log = engine.logs(container.id)
        except OrchestratorError as error:  # it may be going already
            log = f"(no log: {error})\n"
        log = masked(log, secrets)
        lines = log.rstrip().split("\n")
        lines = lines[max(0, len(lines) - self._lines) :]
        said = "\n".join([f"Last log lines of {alias}:", indented("\n".join(lines))])
        said = said if lines else ""
        if self._folder is not None:
            owner = container.labels.get(Label.CLASS, "")
            try:
                write_log(self._folder, test_class=owner, alias=alias, text=log)
            except OSError as error:
                said += f"\n(not kept in {self._folder}: {error.strerror})"
        return said


def _owner(thing: Thing) -> int | None:
    try:
        pid = json.loads(thing.labels[Label.OWNER])["pid"]
    except (ValueError, KeyError, TypeError):
        return None
    return pid if isinstance(pid, int) and Label.SESSION in thing.labels else None
