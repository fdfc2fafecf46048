"""Reaping: removing what dead owners left, and whatever else a person insists on."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Final

from orchestrator.sessions.bare.thing import KINDS
from orchestrator.sessions.engine_reaper import removal_error
from orchestrator.sessions.inventory import inventory
from orchestrator.sessions.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from orchestrator.engine.port import Engine
    from orchestrator.sessions.identity import Identity
    from orchestrator.sessions.inventory import Owned

_AT_ONCE: Final = 8
_PATIENCE: Final = 5.0
_SHORT: Final = 0.05
_LONG: Final = 1.0
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
    """

    removed: Sequence[Owned] = ()
    kept: Sequence[Spared] = ()
    failed: Sequence[Spared] = ()


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
        EngineError: The daemon does not list.
    """
    found = inventory(engine, labelled=selection.labels, here=here, own=own)
    now = datetime.now(UTC)
    doomed: list[Owned] = []
    kept: list[Spared] = []
    for thing in found:
        if thing.run == selection.spare_run:
            continue
        if reason := selection.spares(thing, now=now):
            kept.append(Spared(thing=thing, reason=reason))
        else:
            doomed.append(thing)
    failed = {} if dry_run else _remove_all(engine, doomed, seconds=patience)
    return ReapReport(
        removed=[thing for thing in doomed if _key(thing) not in failed],
        kept=kept,
        failed=[
            Spared(thing=thing, reason=failed[_key(thing)])
            for thing in doomed
            if _key(thing) in failed
        ],
    )


def remove_session(engine: Engine, session: str) -> ReapReport:
    """Remove everything of one session, whose owner the caller knows to be dead or done.

    It waits a moment for creates that were still under way; that session's watchdog waits longer.

    Raises:
        EngineError: The daemon does not list.
    """
    report = reap(engine, Selection(everything=True, session=session))
    quiet = time.monotonic()
    while not report.failed and time.monotonic() - quiet < _QUIET:
        time.sleep(_SHORT)
        more = reap(engine, Selection(everything=True, session=session))
        if more.removed or more.failed:
            quiet = time.monotonic()
            report = ReapReport(removed=[*report.removed, *more.removed], failed=more.failed)
    return report


def _remove_all(
    engine: Engine, doomed: Sequence[Owned], *, seconds: float
) -> dict[tuple[str, str], str]:
    """Remove until it is gone: kind and id of what is not, with the reason."""
    deadline = time.monotonic() + seconds
    pause = _SHORT
    failed = _remove_once(engine, doomed)
    while failed and time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(2 * pause, _LONG)
        failed = _remove_once(engine, [thing for thing in doomed if _key(thing) in failed])
    return failed


def _remove_once(engine: Engine, doomed: Sequence[Owned]) -> dict[tuple[str, str], str]:
    failed = {}
    ordered = sorted(doomed, key=lambda thing: KINDS.index(thing.kind))
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="orchestrator-reap") as pool:
        for _kind, group in groupby(ordered, key=lambda thing: thing.kind):
            things = list(group)
            reasons = pool.map(lambda it: removal_error(engine, it.kind, it.id), things)
            for thing, reason in zip(things, reasons, strict=True):
                if reason:
                    failed[_key(thing)] = reason
    return failed


def _key(thing: Owned) -> tuple[str, str]:
    return thing.kind, thing.id
