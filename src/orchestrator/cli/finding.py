"""One thing `doctor` looked at."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import printable


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
        text = printable(self.text).replace("\n", "\n" + " " * 15)
        head = f"{'WRONG' if self.mend else 'ok':5} {self.about:8} {text}"
        mend = printable(self.mend, lines=False)
        return f"{head}\n{' ' * 15}mend it: {mend}" if mend else head
