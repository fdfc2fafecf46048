"""What is measured; a new subject is added to `SUBJECTS`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.subjects import (
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
    start.START,
    start.IDLE,
    start.DEAD,
    secured.SUBJECT,
    isolation.SUBJECT,
    imports.SUBJECT,
    supply.SUBJECT,
    runner.SUBJECT,
    parallel.SUBJECT,
)
