"""What a reap removes, and why it leaves the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.engine.api import Label
from orchestrator.sessions.liveness import Liveness

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from orchestrator.sessions.inventory import Owned


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What to remove; without anything set, what provably dead owners left.

    Owners that cannot be judged from here, on another host or in another container, count as alive
    unless an age is given.

    Attributes:
        everything: Also what belongs to living owners, and what has malformed labels.
        session: Only this session.
        run: Only the sessions of this run.
        spare_run: Nothing of this run.
        older_than: Only what is older, in seconds; then also of owners that cannot be judged.
    """

    everything: bool = False
    session: str | None = None
    run: str | None = None
    spare_run: str | None = None
    older_than: float | None = None

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels to ask the daemon for."""
        wanted = {Label.SESSION: self.session, Label.RUN: self.run}
        return {name: value for name, value in wanted.items() if value is not None}

    def spares(self, thing: Owned, *, now: datetime) -> str:
        """Why this is left alone; empty when it is to go."""
        return ("" if self.everything else self._for_its_owner(thing)) or self._for_its_age(
            thing, now=now
        )

    def _for_its_owner(self, thing: Owned) -> str:
        if thing.owner is Liveness.ALIVE:
            return f"its owner is alive ({thing.process})"
        if thing.owner is Liveness.MALFORMED:
            return f"its owner cannot be known: {thing.process}; --all removes it"
        if thing.owner is Liveness.UNKNOWN and self.older_than is None:
            return (
                f"its owner cannot be judged from here ({thing.process}); "
                "--older-than removes it once it is old enough"
            )
        return ""

    def _for_its_age(self, thing: Owned, *, now: datetime) -> str:
        if self.older_than is None:
            return ""
        age = thing.age(now)
        if age is None:
            return "its age cannot be known: the label for it cannot be read"
        return f"it is only {age:.0f} s old" if age <= self.older_than else ""
