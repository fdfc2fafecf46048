"""What parent and worker say to each other: dataclasses, each sent as one line of JSON.

Tracebacks travel as text formatted in the worker, so nothing has to pickle. The JSON is ASCII only:
a lone surrogate in a message survives as an escape. A new message goes into `Message` as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, get_args

from orchestrator.runner import unpatched
from orchestrator.runner.options import Options, Shard, Timeouts
from orchestrator.runner.results import Outcome, Problem, Record, Test, Unit

if TYPE_CHECKING:
    from collections.abc import Callable

LOST_CONTACT: Final = 71
"""The exit status of a worker that cannot reach its parent any more."""


class MessageError(Exception):
    """A line that is no message: the other side is not who we think it is."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """How much a worker had written at some moment, in bytes of each stream."""

    out: int = 0
    err: int = 0


# From the parent to a worker


@dataclass(frozen=True, kw_only=True)
class Setup:
    """First message: what to collect and how to run it."""

    options: Options
    report: bool  # whether to answer with every unit, or only that they are there


@dataclass(frozen=True, kw_only=True)
class RunUnit:
    """Run one unit."""

    unit: str
    ids: tuple[str, ...]  # of every test, as the parent knows them; anything else is a fault
    order: tuple[int, ...]  # the ordinals (places in ids) to run


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Start the services of a unit that it will run: until then nobody needs this worker."""

    unit: str
    ids: tuple[str, ...]  # as in RunUnit


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Finish the test that runs, if there is one, tear down, and exit."""


# From a worker to the parent


@dataclass(frozen=True, kw_only=True)
class Collected:
    """The tests are loaded; or loading them raised, and the worker exits."""

    units: tuple[Unit, ...] = ()  # empty unless the parent asked for the report
    trouble: str = ""  # the traceback


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """It has done what can be done ahead for a unit; or cannot run it at all."""

    trouble: str = ""


@dataclass(frozen=True, kw_only=True)
class FixtureBegan:
    """A class or module fixture starts, such as ``setUpClass (module.Class)``."""

    name: str
    owner: str
    written: Written  # by then


@dataclass(frozen=True, kw_only=True)
class FixtureFailed:
    """A class or module fixture raised."""

    problem: Problem
    owner: str


@dataclass(frozen=True, kw_only=True)
class ServicesUp:
    """The services of a class are up."""

    owner: str
    facts: dict[str, str]  # alias.fact to its value, such as the image's digest
    secrets: tuple[str, ...]  # to mask in their logs


@dataclass(frozen=True, kw_only=True)
class Began:
    """A collected test runs another one, which starts."""

    ordinal: int  # of the collected one
    title: str  # of the one that starts


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What a collected test brought: a record for each time that it, or one that it ran, ended."""

    ordinal: int
    records: tuple[Record, ...]
    over: bool  # whether that was all of it


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The unit is over, fixtures included; the worker is free unless it was interrupted."""

    seconds: dict[str, float]  # wall time of each class, its fixtures included
    stopped: str  # why tests were left over: stop, failfast, interrupt, mismatch; or empty


Message: TypeAlias = (
    Setup
    | RunUnit
    | Prepare
    | Stop
    | Collected
    | Prepared
    | FixtureBegan
    | FixtureFailed
    | ServicesUp
    | Began
    | Ended
    | Finished
)


def encode(message: Message) -> bytes:
    """Write a message as one line."""
    return _to_json(message).encode("ascii") + b"\n"


def decode(line: bytes) -> Message:
    """Read one line.

    Raises:
        MessageError: It is not a message.
    """
    try:
        message = _from_json(line.decode("ascii"))
    except (ValueError, KeyError, TypeError) as error:
        raise MessageError(f"not a message: {line[:200]!r}") from error
    if not isinstance(message, Message):
        raise MessageError(f"not a message: {line[:200]!r}")
    return message


_PARTS: Final = (Written, Options, Shard, Timeouts, Unit, Test, Record, Problem)
_CLASSES: Final[dict[str, Any]] = {it.__name__: it for it in (*get_args(Message), *_PARTS)}


def _object(value: Any) -> dict[str, Any]:
    """What JSON has of a dataclass: its fields, and which it is."""
    return {**vars(value), "": type(value).__name__}


def _value(body: dict[str, Any]) -> Any:
    """What an object of JSON is: a dataclass, or a mapping, which has no empty key."""
    for name, value in body.items():
        if isinstance(value, list):
            body[name] = tuple(value)
    if (name := body.pop("", None)) is None:
        return body
    if "outcome" in body:
        body["outcome"] = Outcome(body["outcome"])
    return _CLASSES[name](**body)


_to_json: Final[Callable[[Message], str]] = (  # ASCII only
    unpatched.copy_of("json.encoder").JSONEncoder(separators=(",", ":"), default=_object).encode
)
_from_json: Final[Callable[[str], Any]] = (
    unpatched.copy_of("json.decoder").JSONDecoder(object_hook=_value).decode
)
