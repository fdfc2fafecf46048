"""Trying again when a registry is briefly away.

A loop of our own: tenacity stays behind `orchestrator.probes`, which is above this room, and what
counts here is the kind of failure, not the type of exception.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from orchestrator.errors import OrchestratorError
from orchestrator.images.failure import tries

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often, and with which pauses; five tries wait about 15 seconds in all.

    Attributes:
        attempts: Tries in all.
        first_pause: Seconds before the second try; each further pause is twice as long.
        longest_pause: Seconds.
    """

    attempts: int = 5
    first_pause: float = 1.0
    longest_pause: float = 30.0

    def pause(self, attempt: int) -> float:
        """Seconds to wait after this failed attempt (from 1), spread so that peers disperse."""
        whole = min(self.first_pause * 2.0 ** (attempt - 1), self.longest_pause)
        return whole * random.uniform(0.75, 1.25)  # noqa: S311  # not for security


def retrying(
    do: Callable[[], T],
    *,
    retry: Retry,
    report: Callable[[str], None],
    known: str = "",
    stopping: threading.Event | None = None,
) -> T:
    """Do something until it succeeds, fails for good or was tried often enough.

    Args:
        do: What may fail.
        retry: How often, and with which pauses.
        report: Takes one line about each failure that is followed by another try.
        known: How an error's text begins that says nothing new to the reader of these lines.
        stopping: Set when nobody waits for it any more: the failure at hand is the last.

    Raises:
        OrchestratorError: The last failure.
    """
    stopping = stopping or threading.Event()
    attempt = 1
    while True:
        try:
            return do()
        except OrchestratorError as error:
            most = tries(error, most=retry.attempts)
            if attempt >= most:
                raise
            pause = retry.pause(attempt)
            reason = str(error).removeprefix(known)
            report(f"{reason}; trying again in {pause:.1f} s ({attempt + 1} of {most})")
            if stopping.wait(pause):
                raise
            attempt += 1
