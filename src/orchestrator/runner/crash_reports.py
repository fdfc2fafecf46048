"""What is said about a worker that did not end as it should, and what is saved of its services."""

from __future__ import annotations

import json
import signal
import textwrap
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.engine.api import Label
from orchestrator.errors import OrchestratorError, printable
from orchestrator.runner.messages import LOST_CONTACT, Written
from orchestrator.runner.results import Outcome, Problem
from orchestrator.runner.worker_handle import Ending
from orchestrator.services.secret import masked
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.engine.api import Listed
    from orchestrator.engine.docker import Engine
    from orchestrator.runner.worker_handle import WorkerHandle

_LAST_LINES: Final = 60
_KILL_HINT: Final = "; if nobody killed it, the kernel did for lack of memory: see dmesg"
_LONGEST_ANSWER: Final = 10.0  # seconds of the daemon: the run waits for this


def crash(worker: WorkerHandle, *, status: int | None, logs: str = "", trace: str = "") -> Problem:
    """The problem of the test, or of the fixture, at which a worker died or hung.

    Args:
        worker: The worker, as it was then.
        status: Its exit status; None when it was interrupted and has torn down.
        logs: What the logs of its services said.
        trace: Where it was interrupted, as a traceback.
    """
    title = _place(worker)
    where = _first_line(worker.running or title)
    if worker.ending is Ending.TIMEOUT:
        kind, said = "TimedOut", f"{where} hung: {_too_long(worker)}"
    elif status is None:
        kind, said = (
            "Interrupted",
            f"KeyboardInterrupt in {where}: it ends the run, as under unittest",
        )
    else:
        kind = "Crashed"
        said = (
            f"worker {worker.number} (pid {worker.pid}) {_how_it_ended(worker, status)} in {where}"
        )
    text = f"{said}\n"
    if kind == "Interrupted":
        text += f"\n{trace}"
    text = _with_output(text, worker, since=worker.began)
    if logs:
        text += f"\n{logs}\n"
    return _error(title, kind, said, text)


def at_exit(worker: WorkerHandle, *, status: int, logs: str = "") -> Problem:
    """The problem of a worker that ended otherwise than it was told to, when it ran no unit.

    Args:
        worker: The worker.
        status: Its exit status, which is not 0.
        logs: What the logs of its services said.
    """
    said = (
        f"worker {worker.number} (pid {worker.pid}) {_how_it_ended(worker, status)} after its last "
        f"class{f', {worker.owner}' if worker.owner else ''} (did a test leave an exit handler or "
        "a thread behind?)"
    )
    text = _with_output(f"{said}\n", worker, since=worker.shown)
    if logs:
        text += f"\n{logs}\n"
    return _error(f"exit (worker {worker.number})", "Crashed", said, text)


def overtime(worker: WorkerHandle) -> Problem:
    """The problem of a class that took too long, and went on before it could be interrupted.

    It is the class's: the test that hung went on to an outcome of its own.
    """
    hung = worker.hung_test
    where = worker.hung_at if hung is None else _first_line(hung.title)
    said = f"{where} hung for a while: {_too_long(worker)}"
    text = _with_output(f"{said}\n", worker, since=worker.shown)
    return _error(f"timeout ({worker.owner})", "TimedOut", said, text)


def failed_start(worker: WorkerHandle, *, status: int) -> str:
    """What to say about a worker that ended, with some exit status, while it collected."""
    if worker.ending is Ending.TIMEOUT:
        seconds = f"{worker.timeouts.collecting:g} s, the most that --timeout allows"
        said = f"Collecting the tests took more than {seconds}"
    else:
        said = f"A worker {_how_it_ended(worker, status)} while it collected the tests"
    return _with_output(f"{said}\n", worker, since=Written())


def from_outside(worker: WorkerHandle, status: int | None) -> bool:
    """Whether somebody else ended a worker: that proves nothing against the code it ran.

    Args:
        worker: The worker.
        status: Its exit status; None when it was interrupted and has torn down.
    """
    outside = (None, -signal.SIGKILL, -signal.SIGTERM)
    return worker.ending is Ending.NONE and status in outside


def _error(title: str, kind: str, message: str, text: str) -> Problem:
    return Problem(outcome=Outcome.ERROR, title=title, kind=kind, message=message, text=text)


def _place(worker: WorkerHandle) -> str:
    """Where a worker is: the test, else the fixture, else the unit."""
    if worker.test is not None:
        return worker.test.title
    return worker.phase or (worker.unit.unit.key if worker.unit else "collection")


def _too_long(worker: WorkerHandle) -> str:
    return f"its class took more than {worker.timeouts.unit_class:g} s (--timeout)"


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


def _with_output(text: str, worker: WorkerHandle, *, since: Written) -> str:
    """A text with the end of what a worker has written."""
    lines = str(worker.output.read(since)).rstrip().splitlines()[-_LAST_LINES:]
    if not lines:
        return text
    tail = "\n".join(f"    {line}" for line in lines)
    return f"{text}\nLast output of the worker:\n{tail}\n"


def _first_line(title: str) -> str:
    return title.partition("\n")[0]


class CrashLogs:
    """Takes the logs of dead workers' services, then removes all that the workers had started.

    Args:
        run: The label of the run.
        folder: Where to keep whole logs, or None.
    """

    def __init__(self, *, run: str, folder: str | None) -> None:
        self._run = run
        self._folder = None if folder is None else Path(folder)
        settings = Settings.from_environment()
        timeout = min(settings.engine_timeout, _LONGEST_ANSWER)
        self._settings = replace(settings, engine_timeout=timeout)
        self._engine: Engine | None = None

    def prepare(self) -> None:
        """Connect now: after a death every moment counts, others may sweep the containers away."""
        from orchestrator.engine import connect  # plain suites need none of this

        if self._engine is not None:
            return
        with suppress(OrchestratorError):  # without a daemon there is nothing to take
            self._engine = connect(self._settings)
            self._found(self._engine)  # opens a connection, which is kept

    def take(self, *, pid: int, secrets: Sequence[str]) -> str:
        """Save and remove what one dead worker left.

        Args:
            pid: Its process id, not yet reused.
            secrets: What to mask.

        Returns:
            The last lines of each service, and what went wrong.
        """
        from orchestrator.sessions import remove_session

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
        return "\n".join(said)

    def close(self) -> None:
        """Close the connection to the daemon."""
        if self._engine is not None:
            self._engine.close()

    def _found(self, engine: Engine) -> Sequence[Listed]:
        from orchestrator.sessions import snapshot

        return snapshot(engine, {Label.MARK: "1", Label.RUN: self._run}).things

    def _saved(self, engine: Engine, container: Listed, secrets: Sequence[str]) -> str:
        alias = container.labels[Label.SERVICE]
        try:
            log = engine.logs(container.id)
        except OrchestratorError as error:  # it may be going already
            log = f"(no log: {error})\n"
        log = masked(log, secrets)
        tail = "\n".join(printable(log.rstrip()).split("\n")[-self._settings.log_lines :])
        said = f"Last log lines of {alias}:\n{textwrap.indent(tail, '    ')}"
        if self._folder is not None:
            from orchestrator.environment.context import write_log

            owner = container.labels.get(Label.CLASS, "")
            try:
                write_log(self._folder, test_class=owner, alias=alias, text=log)
            except OSError as error:
                said += f"\n(not kept in {self._folder}: {error.strerror})"
        return said


def _owner(thing: Listed) -> int | None:
    try:
        pid = json.loads(thing.labels[Label.OWNER])["pid"]
    except (ValueError, KeyError, TypeError):
        return None
    return pid if isinstance(pid, int) and Label.SESSION in thing.labels else None
