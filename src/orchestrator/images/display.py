"""What a person sees of a pull: bars on a terminal, one line per event in a log."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self, TextIO

from orchestrator.images.transfer import Transfer, megabytes

if TYPE_CHECKING:
    from types import TracebackType

_BAR: Final = 24  # characters
_REDRAW: Final = 0.1  # seconds between two drawings
_LINE: Final = 15.0  # seconds between two lines about one image in a log


@dataclass(kw_only=True)
class _Row:
    transfer: Transfer
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

    def begin(self, name: str, transfer: Transfer) -> None:
        """A pull begins; its transfer is looked at from now on."""
        with self._lock:
            self._rows[name] = _Row(transfer=transfer)
            if not self._bars:
                self._line(f"{name}: pulling")

    def step(self, name: str) -> None:
        """Its transfer has moved."""
        now = time.monotonic()
        with self._lock:
            row = self._rows[name]
            if self._bars:
                if now - self._last >= _REDRAW:
                    self._draw()
            elif now - row.shown >= _LINE:
                row.shown = now
                self._line(f"{name}: {row.transfer}")

    def news(self, name: str, text: str) -> None:
        """Something a person should know happened to it."""
        with self._lock:
            self._line(f"{name}: {text}")

    def present(self, name: str) -> None:
        """It was there already."""
        with self._lock:
            self._line(f"{name}: present")

    def done(self, name: str) -> None:
        """It has come, whole and verified."""
        with self._lock:
            transfer = self._rows.pop(name).transfer
            self._line(
                f"{name}: pulled and verified, {megabytes(transfer.total)} "
                f"in {transfer.seconds:.1f} s"
            )

    def failed(self, name: str, text: str) -> None:
        """It will not come."""
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
