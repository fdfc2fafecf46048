"""How a run ended, and the exit status that says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from orchestrator.runner.ledger import Ledger

OK: Final = 0
FAILED: Final = 1
NOT_COLLECTED: Final = 3
NOTHING_RAN: Final = 5
INTERRUPTED: Final = 130


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run leaves for the reports.

    Attributes:
        started: Seconds since the epoch.
        seconds: The wall time.
        status: The exit status.
        trouble: Why the tests could not be collected, or empty.
    """

    ledger: Ledger
    started: float
    seconds: float
    status: int
    trouble: str
