"""How a message becomes a line and a line a message: one JSON object each, on a private socket.

Tracebacks travel as text formatted in the worker, so nothing has to pickle. The JSON is ASCII only:
a lone surrogate in a message survives as an escape.
"""

from __future__ import annotations

import signal
from typing import Any, Final, get_args

from orchestrator.runner import unpatched
from orchestrator.runner.messages import (
    Began,
    Collected,
    Ended,
    FixtureBegan,
    FixtureFailed,
    Message,
    Run,
    ServicesUp,
    Setup,
)
from orchestrator.runner.outcome import Outcome, Problem, Record
from orchestrator.runner.output import Written
from orchestrator.runner.unit import Declared, Test, Unit

LOST_CONTACT: Final = 71
"""The exit status of a worker that cannot reach its parent any more."""

# Signals that no test is likely to use; macOS has no real-time ones.
DUMP: Final[int] = getattr(signal, "SIGRTMAX", signal.SIGUSR2 + 3) - 3
"""The signal on which a worker writes the stacks of its threads."""

INTERRUPT: Final[int] = DUMP - 1 if hasattr(signal, "SIGRTMAX") else getattr(signal, "SIGEMT", 7)
"""The signal on which a worker interrupts its test; SIGINT is the tests' own."""

_MESSAGES: Final[dict[str, Any]] = {kind.__name__: kind for kind in get_args(Message)}


class ProtocolError(Exception):
    """A line that is no message: the other side is not who we think it is."""


def encode(message: Message) -> bytes:
    """Write a message as one line."""
    body = vars(message) | {"message": type(message).__name__}
    return unpatched.to_json(body).encode("ascii") + b"\n"


def decode(line: bytes) -> Message:
    """Read one line.

    Raises:
        ProtocolError: It is not a message.
    """
    try:
        body = unpatched.from_json(line.decode("ascii"))
        kind = _MESSAGES[body.pop("message")]
        for name, revive in _REVIVERS.get(kind, {}).items():
            body[name] = revive(body[name])
        message: Message = kind(**body)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolError(f"not a message: {line[:200]!r}") from error
    return message


def _problem(body: dict[str, Any]) -> Problem:
    return Problem(**body | {"outcome": Outcome(body["outcome"])})


def _records(bodies: list[dict[str, Any]]) -> tuple[Record, ...]:
    return tuple(
        Record(
            **body
            | {
                "test": Test(**body["test"]),
                "outcome": Outcome(body["outcome"]),
                "problems": tuple(map(_problem, body["problems"])),
            }
        )
        for body in bodies
    )


def _written(body: dict[str, int]) -> Written:
    return Written(**body)


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
    FixtureBegan: {"written": _written},
    FixtureFailed: {"problem": _problem},
    ServicesUp: {"secrets": tuple},
    Began: {"written": _written},
    Ended: {"records": _records},
}
