"""The figures as an aligned table for people, and as JSON for programs."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.benchmarks.machine import ROOT, docker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.figures import Effort, Row, Subject

_VERDICTS = {True: "met", False: "MISSED", None: "not measured"}
_NOTHING = "-"


def table(subject: Subject, rows: Sequence[Row]) -> str:
    """A subject's table: medians and ratios; below it, whether expectations hold."""
    head = ["", *subject.variants, *(f"{above} ÷ {below}" for above, below in subject.ratios)]
    lines = [head, *(_cells(subject, row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    verdicts = [
        f"  expected of {row.what}: {wanted.text}: {_VERDICTS[wanted.holds(row)]}"
        for row in rows
        for wanted in row.expected
    ]
    return "\n".join([subject.title, *(_aligned(line, widths) for line in lines), *verdicts])


def document(measured: Mapping[Subject, Sequence[Row]], *, effort: Effort) -> dict[str, Any]:
    """Everything measured, and where."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "rounds": effort.rounds,
        "tests": effort.tests,
        "subjects": {
            subject.name: {"title": subject.title, "rows": [_as_json(subject, row) for row in rows]}
            for subject, rows in measured.items()
        },
    }


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "commit": commit.stdout.strip(),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "docker": docker("version", "--format", "{{.Server.Version}}"),
    }


def missed(measured: Mapping[Subject, Sequence[Row]]) -> list[str]:
    """The expectations that do not hold."""
    return [
        f"{subject.name}: {row.what}: {expectation.text}"
        for subject, rows in measured.items()
        for row in rows
        for expectation in row.expected
        if expectation.holds(row) is False
    ]


def seconds(value: float | None) -> str:
    """A duration in the unit one reads it best in."""
    if value is None:
        return _NOTHING
    return f"{value:.2f} s" if abs(value) >= 1 else f"{1000 * value:.1f} ms"


def _cells(subject: Subject, row: Row) -> list[str]:
    ratios = [row.ratio(above, below) for above, below in subject.ratios]
    return [
        row.what,
        *(seconds(row.median(variant)) for variant in subject.variants),
        *(_NOTHING if ratio is None else f"{ratio:.2f}x" for ratio in ratios),
    ]


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    [what, *figures] = line
    cells = (figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True))
    return "   ".join([f"  {what.ljust(widths[0])}", *cells])


def _as_json(subject: Subject, row: Row) -> dict[str, Any]:
    return {
        "what": row.what,
        "samples": {variant: list(samples) for variant, samples in row.samples.items()},
        "medians": {variant: row.median(variant) for variant in row.samples},
        "ratios": {f"{a} ÷ {b}": row.ratio(a, b) for a, b in subject.ratios},
        "expected": {wanted.text: wanted.holds(row) for wanted in row.expected},
    }
