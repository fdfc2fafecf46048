"""What parent and worker say to each other: dataclasses, each sent as one line of JSON.

Tracebacks travel as text formatted in the worker, so nothing has to pickle. The JSON is ASCII only:
a lone surrogate in a message survives as an escape. A new message goes into `Message` as well.
"""

from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from enum import Enum
from types import UnionType
from typing import Any, Final, TypeAlias, get_args, get_origin, get_type_hints

from orchestrator.runner import unpatched
from orchestrator.runner.options import Options
from orchestrator.runner.results import Problem, Record, Unit

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
    body = vars(message) | {"message": type(message).__name__}
    return unpatched.to_json(body).encode("ascii") + b"\n"


def decode(line: bytes) -> Message:
    """Read one line.

    Raises:
        MessageError: It is not a message.
    """
    try:
        body = unpatched.from_json(line.decode("ascii"))
        message: Message = _READERS[body.pop("message")](body)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MessageError(f"not a message: {line[:200]!r}") from error
    return message


def _reader(kind: Any) -> Callable[[Any], Any] | None:
    """A function that makes a value of a type of what JSON has left of it; None where that is it.

    Made when this is imported: later a test may have replaced what it takes to look at types.
    """
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        readers = {name: read for name, hint in hints.items() if (read := _reader(hint))}

        def read_fields(body: Any) -> Any:
            for name, read in readers.items():
                if name in body:
                    body[name] = read(body[name])
            return kind(**body)

        return read_fields
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind
    origin, arguments = get_origin(kind), get_args(kind)
    item = _reader(arguments[-1 if origin is dict else 0]) if arguments else None
    if origin is tuple:
        return lambda body: tuple(map(item, body)) if item else tuple(body)
    if origin is dict and item:
        return lambda body: {key: item(value) for key, value in body.items()}
    if origin is UnionType and item:  # or None
        return lambda body: None if body is None else item(body)
    return None


_READERS: Final[dict[str, Any]] = {kind.__name__: _reader(kind) for kind in get_args(Message)}
