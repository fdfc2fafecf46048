"""One line at the bottom of the terminal: what runs where, and for how long."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TextIO

from orchestrator.errors import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.runner.member import Member

_REFRESH: Final = 0.2
_ERASE: Final = "\r\x1b[K"


class Live:
    """The live line of a terminal; without a terminal, nothing."""

    def __init__(self, terminal: TextIO | None) -> None:
        self._terminal = terminal
        self._expected = 0
        self._ended = 0
        self._shown = ""
        self._due = 0.0

    def expect(self, count: int) -> None:
        """Tell how many tests there are."""
        self._expected = count

    def count(self) -> None:
        """One more test has ended."""
        self._ended += 1

    def show(self, members: Sequence[Member]) -> None:
        """Draw the line, unless it was drawn just now."""
        now = time.monotonic()
        if self._terminal is None or (self._shown and now < self._due):
            return
        self._due = now + _REFRESH
        busy = [
            f"[{member.number}] {printable(_where(member), lines=False)} {now - member.since:.0f}s"
            for member in members
            if member.account is not None
        ]
        width = shutil.get_terminal_size().columns - 1
        line = f"{self._ended}/{self._expected}  {'  '.join(busy)}"[:width]
        if busy and line != self._shown:
            self._write(_ERASE + line)
            self._shown = line

    def clear(self) -> None:
        """Take the line away, so that something else can be written."""
        if self._shown:
            self._write(_ERASE)
            self._shown = ""

    def _write(self, text: str) -> None:
        if self._terminal is not None:
            with suppress(OSError, ValueError):
                self._terminal.write(text)
                self._terminal.flush()


def _where(member: Member) -> str:
    if member.account is None:
        return ""
    if member.ordinal is None:
        return member.phase or member.account.unit.key
    return member.account.unit.tests[member.ordinal].id
