"""What parent and worker say to each other: one JSON object a line over a private socket.

Tracebacks travel as text formatted in the worker, so nothing has to pickle. The JSON is ASCII only:
a lone surrogate in a message survives as an escape.
"""

from __future__ import annotations

import dataclasses
import json
import signal
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias

LOST_CONTACT: Final = 71
"""The exit status of a worker that cannot reach its parent any more."""

# A signal that no test is likely to use; macOS has no real-time ones.
DUMP: Final[int] = getattr(signal, "SIGRTMAX", signal.SIGUSR2 + 3) - 3
"""The signal on which a worker writes the stacks of its threads."""


class Outcome(StrEnum):
    """How a test ended. Every collected test ends in exactly one of these."""

    OK = "ok"
    FAILURE = "failure"
    ERROR = "error"
    SKIPPED = "skipped"
    EXPECTED_FAILURE = "expected failure"
    UNEXPECTED_SUCCESS = "unexpected success"
    NOT_RUN = "not run"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One failure or error as the report shows it.

    Attributes:
        outcome: ``FAILURE``, ``ERROR`` or ``UNEXPECTED_SUCCESS``.
        title: What failed, in unittest's words; a subtest has its own.
        kind: The exception's class name.
        message: The exception's message, cut to its first lines.
        text: The formatted traceback.
    """

    outcome: Outcome
    title: str
    kind: str
    message: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A service that a class declares.

    Attributes:
        memory: Bytes it may use, or None when the declaration says nothing.
    """

    alias: str
    kind: str
    scope: str
    memory: int | None


@dataclass(frozen=True, kw_only=True)
class Test:
    """A collected test.

    Attributes:
        owner: Its class, as ``module.Class``; the class is what reports group by.
        title: ``str(test)``, and its docstring's first line below it where there is one.
    """

    id: str
    owner: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What one worker runs in one piece: a class, or a module with module fixtures.

    Attributes:
        key: ``module.Class`` or ``module``.
        files: The source file of each class, relative to the working directory where possible.
        services: The services each class declares.
    """

    key: str
    tests: tuple[Test, ...]
    files: dict[str, str]
    services: dict[str, tuple[Declared, ...]]


# From the parent to a worker


@dataclass(frozen=True, kw_only=True)
class Setup:
    """First message: what to collect and how to run it.

    Attributes:
        names: Dotted names or paths; empty for discovery.
        top: The top-level directory, or None for the start directory.
        report: Whether to answer with every unit, or only that they are there.
    """

    names: tuple[str, ...]
    start: str
    pattern: str
    top: str | None
    keep: tuple[str, ...]
    failfast: bool
    buffer: bool
    tb_locals: bool
    report: bool


@dataclass(frozen=True, kw_only=True)
class Run:
    """Run one unit.

    Attributes:
        ids: Every test of the unit as the parent knows them; anything else here is a fault.
        order: The ordinals (places in ``ids``) to run, in this order.
    """

    unit: str
    ids: tuple[str, ...]
    order: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Finish the test that runs, tear down, run no other."""


@dataclass(frozen=True, kw_only=True)
class Leave:
    """Exit; there is nothing more to run."""


# From a worker to the parent


@dataclass(frozen=True, kw_only=True)
class Collected:
    """The tests are loaded. ``units`` is empty unless the parent asked for the report."""

    units: tuple[Unit, ...]


@dataclass(frozen=True, kw_only=True)
class NotCollected:
    """Loading the tests raised; the worker exits."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """The unit holds other tests here than the parent was told; none of them ran."""

    unit: str
    text: str


@dataclass(frozen=True, kw_only=True)
class FixtureBegan:
    """A class or module fixture starts, such as ``setUpClass (module.Class)``.

    Attributes:
        offset: How much the worker had written by then, in bytes.
    """

    name: str
    owner: str
    offset: int


@dataclass(frozen=True, kw_only=True)
class FixtureFailed:
    """A class or module fixture raised."""

    problem: Problem
    owner: str


@dataclass(frozen=True, kw_only=True)
class ServicesUp:
    """The services of a class are up.

    Attributes:
        facts: ``alias.fact`` to its value, such as the image's digest.
        secrets: What to mask in their logs.
    """

    owner: str
    facts: dict[str, str]
    secrets: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Began:
    """A test starts.

    Attributes:
        offset: How much the worker had written by then, in bytes.
    """

    ordinal: int
    offset: int


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A test ended.

    Attributes:
        reason: Why it was skipped or did not run.
        seconds: Its wall time with its own set-up and tear-down.
    """

    ordinal: int
    outcome: Outcome
    problems: tuple[Problem, ...]
    reason: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The unit is over, fixtures included; the worker is free unless it was interrupted.

    Attributes:
        seconds: The wall time of each class, its fixtures included.
        stopped: Why tests were left over (``"stop"``, ``"failfast"``, ``"interrupt"``), or empty.
        place: The fixture that was interrupted, or empty when it was a test.
    """

    unit: str
    seconds: dict[str, float]
    stopped: str
    place: str


Message: TypeAlias = (
    Setup
    | Run
    | Stop
    | Leave
    | Collected
    | NotCollected
    | Mismatch
    | FixtureBegan
    | FixtureFailed
    | ServicesUp
    | Began
    | Ended
    | Finished
)

_MESSAGES: Final = {
    kind.__name__: kind
    for kind in (
        Setup,
        Run,
        Stop,
        Leave,
        Collected,
        NotCollected,
        Mismatch,
        FixtureBegan,
        FixtureFailed,
        ServicesUp,
        Began,
        Ended,
        Finished,
    )
}


class ProtocolError(Exception):
    """A line that is no message: the other side is not who we think it is."""


def encode(message: Message) -> bytes:
    """Write a message as one line."""
    body = dataclasses.asdict(message)
    body["message"] = type(message).__name__
    return json.dumps(body, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def decode(line: bytes) -> Message:
    """Read one line.

    Raises:
        ProtocolError: It is not a message.
    """
    try:
        body = json.loads(line)
        kind = _MESSAGES[body.pop("message")]
        for name, revive in _REVIVERS.get(kind, {}).items():
            body[name] = revive(body[name])
        message: Message = kind(**body)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolError(f"not a message: {line[:200]!r}") from error
    return message


def _problem(body: dict[str, Any]) -> Problem:
    return Problem(**body | {"outcome": Outcome(body["outcome"])})


def _problems(bodies: list[dict[str, Any]]) -> tuple[Problem, ...]:
    return tuple(map(_problem, bodies))


def _unit(body: dict[str, Any]) -> Unit:
    services = {
        owner: tuple(Declared(**declared) for declared in declarations)
        for owner, declarations in body["services"].items()
    }
    tests = tuple(Test(**test) for test in body["tests"])
    return Unit(**body | {"tests": tests, "services": services})


def _units(bodies: list[dict[str, Any]]) -> tuple[Unit, ...]:
    return tuple(map(_unit, bodies))


_REVIVERS: Final[dict[type, dict[str, Any]]] = {
    Setup: {"names": tuple, "keep": tuple},
    Run: {"ids": tuple, "order": tuple},
    Collected: {"units": _units},
    FixtureFailed: {"problem": _problem},
    ServicesUp: {"secrets": tuple},
    Ended: {"outcome": Outcome, "problems": _problems},
}
