"""Reaping: removing what dead owners left, and whatever else a person insists on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from orchestrator.sessions.bare.thing import Thing
from orchestrator.sessions.engine_reaper import remove_things
from orchestrator.sessions.inventory import inventory
from orchestrator.sessions.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from orchestrator.engine.docker import Engine
    from orchestrator.sessions.identity import Identity
    from orchestrator.sessions.inventory import Owned

_PATIENCE: Final = 5.0
_SHORT: Final = 0.05
_QUIET: Final = 0.25  # a create whose client vanished appears 11 to 180 ms later


@dataclass(frozen=True, kw_only=True)
class Spared:
    """Something that is still there, and why."""

    thing: Owned
    reason: str


@dataclass(frozen=True, kw_only=True)
class ReapReport:
    """What a reap did, or, as a dry run, would do.

    Attributes:
        removed: What is gone (or would be).
        kept: What it left alone on purpose.
        failed: What it should have removed and could not.
        refused: The kinds that the daemon does not list, and its reasons; what there is of them, it
            does not know.
    """

    removed: Sequence[Owned] = ()
    kept: Sequence[Spared] = ()
    failed: Sequence[Spared] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


def reap(
    engine: Engine,
    selection: Selection = Selection(),  # noqa: B008  # frozen
    *,
    dry_run: bool = False,
    patience: float = _PATIENCE,
    here: Identity | None = None,
    own: Collection[str] | None = None,
) -> ReapReport:
    """Remove what dead owners left, or what a selection says. Several at once are fine.

    Args:
        engine: The daemon.
        selection: What to remove.
        dry_run: Remove nothing, only say what would be removed.
        patience: Seconds for what does not go at the first attempt.
        here: The process that judges the owners; the calling one by default.
        own: Ids of all sessions of that process, when it knows them.

    Raises:
        EngineError: The daemon does not answer, or lists nothing at all.
    """
    found = inventory(engine, labelled=selection.labels, here=here, own=own)
    now = datetime.now(UTC)
    doomed: list[Owned] = []
    kept: list[Spared] = []
    for thing in found.things:
        if thing.run == selection.spare_run:
            continue
        if reason := selection.spares(thing, now=now):
            kept.append(Spared(thing=thing, reason=reason))
        else:
            doomed.append(thing)
    things = [Thing(thing.kind, thing.id, thing.name) for thing in doomed]
    left = [] if dry_run else remove_things(engine, things, seconds=patience)
    reasons = {(thing.kind, thing.id): thing.reason for thing in left}
    return ReapReport(
        removed=[thing for thing in doomed if (thing.kind, thing.id) not in reasons],
        kept=kept,
        failed=[
            Spared(thing=thing, reason=reasons[thing.kind, thing.id])
            for thing in doomed
            if (thing.kind, thing.id) in reasons
        ],
        refused=found.refused,
    )


def remove_session(engine: Engine, session: str) -> ReapReport:
    """Remove everything of one session, whose owner the caller knows to be dead or done.

    It waits a moment for creates that were still under way; that session's watchdog waits longer.

    Raises:
        EngineError: The daemon does not answer, or lists nothing at all.
    """
    report = reap(engine, Selection(everything=True, session=session))
    quiet = time.monotonic()
    while not report.failed and time.monotonic() - quiet < _QUIET:
        time.sleep(_SHORT)
        more = reap(engine, Selection(everything=True, session=session))
        if more.removed or more.failed:
            quiet = time.monotonic()
            report = replace(more, removed=[*report.removed, *more.removed])
    return report
