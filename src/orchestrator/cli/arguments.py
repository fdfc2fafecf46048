"""Arguments and output that several commands have in common."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def archive(text: str) -> Path:
    """An argument that names an archive."""
    if text == "-":
        raise argparse.ArgumentTypeError(
            "an archive is a file, not a stream: only a whole one can be verified"
        )
    return Path(text)


def at_least_one(text: str) -> int:
    """An argument that is a number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def counted(count: int, thing: str) -> str:
    """A number and a noun, such as ``2 images``."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows in columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
