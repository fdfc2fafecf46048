"""How far a pull is, and telling of it."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from orchestrator.progress import tell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.engine.api import PullProgress

_BAR: Final = 24  # characters
_OFTEN: Final = 0.1  # seconds between two words about one pull


@dataclass(kw_only=True)
class Transfer:
    """The progress of one pull. Sizes are bytes, as transferred (compressed)."""

    begun: float = field(default_factory=time.monotonic)
    _layers: dict[str, tuple[int, int]] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)
    _ready: set[str] = field(default_factory=set)

    def add(self, step: PullProgress) -> None:
        """Count one step that the daemon reported."""
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
    def total(self) -> int:
        """Bytes of the layers known so far."""
        return sum(total for _, total in self._layers.values())

    @property
    def fraction(self) -> float:
        """From 0 to 1; the unpacking of the layers is the last tenth."""
        if not self._seen:
            return 0.0
        unpacked = len(self._ready) / len(self._seen)
        loaded = sum(done for done, _ in self._layers.values()) / (self.total or 1)
        return 0.9 * max(loaded, unpacked) + 0.1 * unpacked

    @property
    def seconds(self) -> float:
        """Seconds since its beginning."""
        return time.monotonic() - self.begun

    def __str__(self) -> str:
        full = round(self.fraction * _BAR)
        done = megabytes(sum(done for done, _ in self._layers.values()))
        bar = f"[{'#' * full}{'-' * (_BAR - full)}]"
        return f"{bar} {done} of {megabytes(self.total)} {self.seconds:.0f} s"


def megabytes(size: int) -> str:
    """A number of bytes as text, in MB or GB."""
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"  # noqa: PLR2004


class Display:
    """Tells of pulls, from any thread; a quiet one only of what went wrong."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._pulls: dict[str, tuple[Transfer, float]] = {}

    @contextlib.contextmanager
    def pulling(self, name: str) -> Iterator[Transfer]:
        """Tell of a pull while the block runs; `step` updates what is given."""
        transfer = Transfer()
        self._pulls[name] = transfer, transfer.begun
        self._tell(name, "pulling")
        try:
            yield transfer
        except BaseException:
            self._tell(name, "", over=True)
            raise
        size = megabytes(transfer.total)
        self.news(name, f"pulled and verified, {size} in {transfer.seconds:.1f} s")

    def step(self, name: str, step: PullProgress) -> None:
        """Update the progress of a pull."""
        transfer, told = self._pulls[name]
        transfer.add(step)
        if (now := time.monotonic()) - told >= _OFTEN:
            self._pulls[name] = transfer, now
            self._tell(name, f"pulling {transfer}")

    def news(self, name: str, text: str, *, important: bool = False) -> None:
        """Tell something about an image."""
        if important or not self._quiet:
            tell(name, text, over=True)

    def _tell(self, name: str, text: str, *, over: bool = False) -> None:
        if not self._quiet:
            tell(name, text, over=over)
