"""How far a pull is: the daemon's steps, layer by layer, added up."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.engine.api import PullProgress


@dataclass(kw_only=True)
class Transfer:
    """One image on its way. Sizes are bytes, as transferred (compressed).

    Attributes:
        begun: `time.monotonic` at its beginning.
    """

    begun: float = field(default_factory=time.monotonic)
    _layers: dict[str, tuple[int, int]] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)
    _ready: set[str] = field(default_factory=set)

    def add(self, step: PullProgress) -> None:
        """Take in one step."""
        if step.status in ("Pulling fs layer", "Already exists"):
            self._seen.add(step.layer)
        if step.status == "Downloading" and step.total:
            self._layers[step.layer] = (step.current, step.total)
        elif step.status in ("Download complete", "Verifying Checksum"):
            _, total = self._layers.get(step.layer, (0, 0))
            self._layers[step.layer] = (total, total)
        elif step.status in ("Pull complete", "Already exists"):
            self._ready.add(step.layer)

    @property
    def done(self) -> int:
        """Bytes that have come."""
        return sum(current for current, _ in self._layers.values())

    @property
    def total(self) -> int:
        """Bytes of the layers known so far."""
        return sum(total for _, total in self._layers.values())

    @property
    def fraction(self) -> float:
        """From 0 to 1; the unpacking of the layers is the last tenth."""
        if not self._seen:
            return 0.0
        unpacked = len(self._ready) / len(self._seen)
        loaded = self.done / self.total if self.total else 0.0
        return 0.9 * max(loaded, unpacked) + 0.1 * unpacked

    @property
    def seconds(self) -> float:
        """Seconds since its beginning."""
        return time.monotonic() - self.begun

    def __str__(self) -> str:
        return f"{megabytes(self.done)} of {megabytes(self.total)}"


def megabytes(size: int) -> str:
    """A size as people read it."""
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"  # noqa: PLR2004
