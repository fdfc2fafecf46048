"""The figures as an aligned table for people, and as JSON for programs."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.benchmarks.machine import run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.measuring import Row, Subject

_VERDICTS = {True: "met", False: "MISSED", None: "not measured"}


def table(subject: Subject, rows: Sequence[Row]) -> str:
    """A subject's table: medians and ratios; below it, whether expectations hold."""
    variants = list(dict.fromkeys(variant for row in rows for variant in row.samples))
    lines = [["", *variants, *(f"{above} ÷ {below}" for above, below in subject.ratios)]]
    for row in rows:
        ratios = [row.ratio(above, below) for above, below in subject.ratios]
        lines.append(
            [
                row.what,
                *(_seconds(row.median(variant)) for variant in variants),
                *("-" if ratio is None else f"{ratio:.2f}x" for ratio in ratios),
            ]
        )
    first, *widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = (
        "   ".join([f"  {what.ljust(first)}", *map(str.rjust, figures, widths)])
        for what, *figures in lines
    )
    verdicts = (
        f"  expected of {row.what}: {wanted.text}: {_VERDICTS[wanted.holds(row)]}"
        for row in rows
        for wanted in row.expected
    )
    return "\n".join([subject.title, *aligned, *verdicts])


def document(measured: Mapping[Subject, Sequence[Row]], *, rounds: int) -> dict[str, Any]:
    """Everything measured, and what the figures depend on."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "commit": run("git", "rev-parse", "--short", "HEAD"),
            "processors": os.cpu_count(),
            "load": round(os.getloadavg()[0], 2),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "docker": run("docker", "version", "--format", "{{.Server.Version}}"),
        },
        "rounds": rounds,
        "subjects": {
            subject.name: [
                {
                    "what": row.what,
                    "samples": {variant: list(samples) for variant, samples in row.samples.items()},
                    "medians": {variant: row.median(variant) for variant in row.samples},
                }
                for row in rows
            ]
            for subject, rows in measured.items()
        },
    }


def _seconds(value: float | None) -> str:
    """A duration in the unit one reads it best in."""
    if value is None:
        return "-"
    return f"{value:.2f} s" if abs(value) >= 1 else f"{1000 * value:.1f} ms"
