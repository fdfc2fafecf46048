"""How a test can end, and what is told of it when it did not end well."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
