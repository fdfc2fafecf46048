"""What is measured: one module per subject; a new one is added to `SUBJECTS`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.subjects import (
    dead,
    idle,
    imports,
    isolation,
    parallel,
    runner,
    secured,
    start,
    supply,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.figures import Subject

SUBJECTS: Sequence[Subject] = (
    start.SUBJECT,
    idle.SUBJECT,
    dead.SUBJECT,
    secured.SUBJECT,
    isolation.SUBJECT,
    imports.SUBJECT,
    supply.SUBJECT,
    runner.SUBJECT,
    parallel.SUBJECT,
)
