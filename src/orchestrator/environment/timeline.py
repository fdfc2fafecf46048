"""What the start of a class waited for, recorded when ``ORCHESTRATOR_TIMELINE`` asks for it."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CLASS: Final = ""
"""The row of what the class as a whole waits for."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """One thing that took time.

    Attributes:
        row: The service's alias, or `CLASS`.
        phase: What was done, such as ``"probe"``.
        began: Seconds from the beginning of the class's start.
        ended: The same.
    """

    row: str
    phase: str
    began: float
    ended: float


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The start of one class.

    Attributes:
        test_class: Its full name.
        needs: Alias to the aliases it waits for.
        spans: What took time, in the order it ended.
    """

    test_class: str
    needs: Mapping[str, Sequence[str]]
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    spans: list[Span] = field(default_factory=list)
    _zero: float = field(default_factory=time.monotonic)

    @contextlib.contextmanager
    def span(self, row: str, phase: str) -> Iterator[None]:
        """Record how long the block takes, also when it fails."""
        began = time.monotonic() - self._zero
        try:
            yield
        finally:
            ended = time.monotonic() - self._zero
            self.spans.append(Span(row=row, phase=phase, began=began, ended=ended))

    def rows(self) -> Mapping[str, Sequence[Span]]:
        """The spans of each row, the class's first; with what each service waited for."""
        found: dict[str, list[Span]] = {CLASS: [], **{alias: [] for alias in self.needs}}
        for span in sorted(self.spans, key=lambda span: span.began):
            found[span.row].append(span)
        for alias, needs in self.needs.items():
            if needs and found[alias]:
                phase = f"waits for {', '.join(needs)}"
                first = found[alias][0].began
                found[alias].insert(0, Span(row=alias, phase=phase, began=0.0, ended=first))
        return found

    @property
    def seconds(self) -> float:
        """How long the whole start took."""
        return max((span.ended for span in self.spans), default=0.0)
