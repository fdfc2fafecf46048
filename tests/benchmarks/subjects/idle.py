"""What is lost between a server's first answer and the moment the library takes it for ready."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.benchmarks.figures import OURS, THEIRS, Row, Subject, at_most
from tests.benchmarks.rounds import take_turns
from tests.benchmarks.variants import NAMES, ours, theirs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.figures import Effort
    from tests.benchmarks.rounds import Measure


def measure(effort: Effort) -> Sequence[Row]:
    """All three together, each with an observer of its own."""
    names = list(NAMES)
    variants: Mapping[str, Measure] = {
        OURS: partial(ours, "watch", *names),
        **theirs("watch", *names),
    }
    samples = take_turns({"idle": variants}, rounds=effort.rounds)
    return [Row(NAMES[name], samples["idle", name], [at_most(0.03)]) for name in names]


SUBJECT = Subject(
    name="idle",
    title="Idle after ready: from a server's first answer until the library noticed",
    variants=(OURS, THEIRS),
    measure=measure,
)
