"""What is said about a worker that did not end as it should."""

from __future__ import annotations

import itertools
import re
import signal
from typing import TYPE_CHECKING, Final

from orchestrator.errors import indented
from orchestrator.runner.messages import LOST_CONTACT
from orchestrator.runner.results import Problem
from orchestrator.runner.worker_handle import Ending

if TYPE_CHECKING:
    from orchestrator.runner.worker_handle import WorkerHandle

_LAST_LINES: Final = 60
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


def failed_start(worker: WorkerHandle, *, status: int) -> Problem:
    """The error of a worker that ended, with some exit status, while it collected."""
    if worker.ending is Ending.TIMEOUT:
        seconds = f"{worker.timeouts.collecting:g} s, the most that --timeout allows"
        said = f"Collecting the tests took more than {seconds}"
    else:
        said = f"A worker {_how_it_ended(worker, status)} while it collected the tests"
    return not_collected(_with_output(said, worker))


def not_collected(text: str) -> Problem:
    """The error of a run, or of a worker, that could not collect the tests."""
    message = text.strip().splitlines()[-1]
    return Problem(title="collection", kind="NotCollected", message=message, text=text)


def _error(worker: WorkerHandle, title: str, said: str, logs: str = "") -> Problem:
    text = _with_output(said, worker) + (f"\n{logs}\n" if logs else "")
    kind = "TimedOut" if worker.ending is Ending.TIMEOUT else "Crashed"
    return Problem(title=title, kind=kind, message=said, text=text)


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
