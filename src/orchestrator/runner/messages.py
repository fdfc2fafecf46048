"""What parent and worker say to each other.

A new message goes into `Message` as well; one that holds more than text and numbers also says in
`protocol` how it is revived.
"""

from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.runner.outcome import Problem, Record
from orchestrator.runner.output import Written
from orchestrator.runner.unit import Unit

# From the parent to a worker


@dataclass(frozen=True, kw_only=True)
class Setup:
    """First message: what to collect and how to run it.

    Attributes:
        names: Dotted names or paths; empty for discovery.
        top: The top-level directory, or None for the start directory.
        report: Whether to answer with every unit, or only that they are there.
        finish: Seconds for the running test when the parent is gone; then it is interrupted.
        teardown: Seconds for the clean-ups after that; then the worker ends itself.
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
    finish: float
    teardown: float


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
        written: How much the worker had written by then.
    """

    name: str
    owner: str
    written: Written


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
    """A test starts: a collected one, or another that a collected one runs.

    Attributes:
        ordinal: Of the collected one.
        title: Of the one that starts.
        written: How much the worker had written by then.
    """

    ordinal: int
    title: str
    written: Written


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What a collected test brought: as a rule, one record.

    Attributes:
        records: One for each time that it, or another test that it ran, ended.
        over: Whether that was all of it.
    """

    ordinal: int
    records: tuple[Record, ...]
    over: bool


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The unit is over, fixtures included; the worker is free unless it was interrupted.

    Attributes:
        seconds: The wall time of each class, its fixtures included.
        stopped: Why tests were left over (``"stop"``, ``"failfast"``, ``"interrupt"``), or empty.
        place: The fixture that was interrupted, or empty when it was a test.
        trace: Where it was interrupted, as a traceback.
    """

    unit: str
    seconds: dict[str, float]
    stopped: str
    place: str
    trace: str


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
