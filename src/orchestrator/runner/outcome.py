"""How a test can end, and what is told of it when it did not end well."""

from dataclasses import dataclass
from enum import StrEnum

from orchestrator.runner.unit import Test


class Outcome(StrEnum):
    """How a test ended. Each time it ends, it is in exactly one of these."""

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
class Record:
    """How one test ended.

    Attributes:
        reason: Why it was skipped or did not run.
        seconds: Its wall time with its own set-up and tear-down.
        skips: How often it was skipped: each subtest may be.
    """

    test: Test
    outcome: Outcome
    problems: tuple[Problem, ...] = ()
    reason: str = ""
    seconds: float = 0.0
    skips: int = 0
