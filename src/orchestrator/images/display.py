"""How far a pull is, and what a person sees of it: bars on a terminal, lines in a log."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self, TextIO

if TYPE_CHECKING:
    from types import TracebackType

    from orchestrator.engine.api import PullProgress

_BAR: Final = 24  # characters
_REDRAW: Final = 0.1  # seconds between two drawings
_LINE: Final = 15.0  # seconds between two lines about one image in a log


@dataclass(kw_only=True)
class Transfer:
    """The progress of one pull. Sizes are bytes, as transferred (compressed).

    Attributes:
        begun: `time.monotonic` at its beginning.
    """

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
    def done(self) -> int:
        """Bytes transferred so far."""
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
    """A number of bytes as text, in MB or GB."""
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"  # noqa: PLR2004


@dataclass(kw_only=True)
class _Row:
    transfer: Transfer = field(default_factory=Transfer)
    shown: float = field(default_factory=time.monotonic)


class Display:
    """Shows several pulls at once; every method may be called from any thread.

    Args:
        stream: Where to write, usually stderr.
        bars: Whether to redraw bars in place; by default when the stream is a terminal.
        quiet: Whether to say only what went wrong.
    """

    def __init__(self, stream: TextIO, *, bars: bool | None = None, quiet: bool = False) -> None:
        self._stream = stream
        self._bars = (stream.isatty() if bars is None else bars) and not quiet
        self._quiet = quiet
        self._lock = threading.Lock()
        self._rows: dict[str, _Row] = {}
        self._drawn = 0
        self._last = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._erase()

    def begin(self, name: str) -> Transfer:
        """Show that a pull begins; returns the progress that `step` updates."""
        with self._lock:
            self._rows[name] = row = _Row()
            if not self._bars:
                self._line(f"{name}: pulling")
        return row.transfer

    def step(self, name: str, step: PullProgress) -> None:
        """Update the progress of a pull."""
        now = time.monotonic()
        with self._lock:
            row = self._rows[name]
            row.transfer.add(step)
            if self._bars:
                if now - self._last >= _REDRAW:
                    self._draw()
            elif now - row.shown >= _LINE:
                row.shown = now
                self._line(f"{name}: {row.transfer}")

    def news(self, name: str, text: str) -> None:
        """Show a message about an image, such as a retry."""
        with self._lock:
            self._line(f"{name}: {text}")

    def present(self, name: str) -> None:
        """Show that an image was on this machine already."""
        with self._lock:
            self._line(f"{name}: present")

    def done(self, name: str) -> None:
        """Show that an image was pulled and verified."""
        with self._lock:
            transfer = self._rows.pop(name).transfer
            self._line(
                f"{name}: pulled and verified, {megabytes(transfer.total)} "
                f"in {transfer.seconds:.1f} s"
            )

    def failed(self, name: str, text: str) -> None:
        """Show why an image could not be pulled."""
        with self._lock:
            self._rows.pop(name, None)
            self._line(f"FAILED {text}", important=True)

    def _line(self, text: str, *, important: bool = False) -> None:
        if self._quiet and not important:
            return
        self._erase()
        self._stream.write(f"{text}\n")
        self._draw()

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write(f"\x1b[{self._drawn}F\x1b[0J")  # up, then clear to the end
            self._drawn = 0
        self._stream.flush()

    def _draw(self) -> None:
        if not self._bars:
            self._stream.flush()
            return
        self._erase()
        size = shutil.get_terminal_size()
        width = max(map(len, self._rows), default=0)
        for name, row in list(self._rows.items())[: size.lines - 1]:
            bar = f"{name:{width}} {_bar(row.transfer)}"
            self._stream.write(f"{bar[: size.columns - 1]}\n")
            self._drawn += 1
        self._stream.flush()
        self._last = time.monotonic()


def _bar(transfer: Transfer) -> str:
    full = round(transfer.fraction * _BAR)
    return f"[{'#' * full}{'-' * (_BAR - full)}] {transfer} {transfer.seconds:.0f} s"
