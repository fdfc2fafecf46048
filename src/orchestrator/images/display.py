"""How far a pull is, and what a person sees of it: bars on a terminal, lines in a log."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TextIO

from orchestrator.progress import tell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.engine.api import PullProgress

_BAR: Final = 24  # characters
_REDRAW: Final = 0.1  # seconds between two drawings
_LINE: Final = 15.0  # seconds between two lines about one image in a log


@dataclass(kw_only=True)
class Transfer:
    """The progress of one pull. Sizes are bytes, as transferred (compressed)."""

    begun: float = field(default_factory=time.monotonic)
    shown: float = field(default_factory=time.monotonic)
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
        done = sum(done for done, _ in self._layers.values())
        return f"{megabytes(done)} of {megabytes(self.total)}"


def megabytes(size: int) -> str:
    """A number of bytes as text, in MB or GB."""
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"  # noqa: PLR2004


def _bar(transfer: Transfer) -> str:
    full = round(transfer.fraction * _BAR)
    return f"[{'#' * full}{'-' * (_BAR - full)}] {transfer} {transfer.seconds:.0f} s"


class Teller:
    """Tells of pulls where a service starts: whoever shows that decides how."""

    def __init__(self) -> None:
        self._pulls: dict[str, Transfer] = {}

    @contextlib.contextmanager
    def pulling(self, name: str) -> Iterator[Transfer]:
        """Tell of a pull while the block runs; `step` updates what is given."""
        transfer = self._pulls[name] = Transfer()
        tell(name, "pulling")
        try:
            yield transfer
        except BaseException:
            tell(name, "", over=True)
            raise
        tell(name, _pulled(transfer), over=True)

    def step(self, name: str, step: PullProgress) -> None:
        """Update the progress of a pull."""
        transfer, now = self._pulls[name], time.monotonic()
        transfer.add(step)
        if now - transfer.shown >= _REDRAW:
            transfer.shown = now
            tell(name, f"pulling {_bar(transfer)}")

    def news(self, name: str, text: str, *, important: bool = False) -> None:
        """Tell something about an image."""
        del important
        tell(name, text)


def _pulled(transfer: Transfer) -> str:
    return f"pulled and verified, {megabytes(transfer.total)} in {transfer.seconds:.1f} s"


class Display:
    """Shows several pulls at once; every method may be called from any thread.

    Bars are redrawn in place, by default where the stream is a terminal, else there are lines. A
    quiet one says only what went wrong.
    """

    def __init__(self, stream: TextIO, *, bars: bool | None = None, quiet: bool = False) -> None:
        self._stream = stream
        self._bars = (stream.isatty() if bars is None else bars) and not quiet
        self._quiet = quiet
        self._lock = threading.RLock()
        self._pulls: dict[str, Transfer] = {}
        self._drawn = 0
        self._last = 0.0

    @contextlib.contextmanager
    def pulling(self, name: str) -> Iterator[Transfer]:
        """Show a pull while the block runs; `step` updates what is given."""
        with self._lock:
            self._pulls[name] = transfer = Transfer()
            if not self._bars:
                self.news(name, "pulling")
        try:
            yield transfer
        finally:
            with self._lock:
                del self._pulls[name]
                self._erase()
        self.news(name, _pulled(transfer))

    def step(self, name: str, step: PullProgress) -> None:
        """Update the progress of a pull."""
        now = time.monotonic()
        with self._lock:
            transfer = self._pulls[name]
            transfer.add(step)
            if self._bars and now - self._last >= _REDRAW:
                self._draw()
            elif not self._bars and now - transfer.shown >= _LINE:
                transfer.shown = now
                self.news(name, str(transfer))

    def news(self, name: str, text: str, *, important: bool = False) -> None:
        """Show a line."""
        with self._lock:
            if important or not self._quiet:
                self._erase()
                self._stream.write(f"{name}: {text}\n")
                self._draw()

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write(f"\x1b[{self._drawn}F\x1b[0J")  # up, then clear to the end
            self._drawn = 0
        self._stream.flush()

    def _draw(self) -> None:
        self._erase()
        if not self._bars:
            return
        size = shutil.get_terminal_size()
        width = max(map(len, self._pulls), default=0)
        for name, transfer in list(self._pulls.items())[: size.lines - 1]:
            line = f"{name:{width}} {_bar(transfer)}"[: size.columns - 1]
            self._stream.write(f"{line}\n")
            self._drawn += 1
        self._stream.flush()
        self._last = time.monotonic()
