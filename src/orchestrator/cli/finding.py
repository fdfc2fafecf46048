"""One thing `doctor` looked at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was looked at, how it is, and what mends it.

    Attributes:
        mend: The command that mends it; empty when nothing is wrong.
    """

    about: str
    text: str
    mend: str = ""

    def __str__(self) -> str:
        lines = self.text.splitlines() or [""]
        text = ("\n" + " " * 15).join(lines)
        head = f"{'WRONG' if self.mend else 'ok':5} {self.about:8} {text}"
        return f"{head}\n{' ' * 15}mend it: {self.mend}" if self.mend else head
