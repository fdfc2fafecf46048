"""Removing through the engine: everything of one session, or things that are known."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Final

from orchestrator.engine.api import Label
from orchestrator.errors import EngineError
from orchestrator.sessions.bare.removal import remove_in_time
from orchestrator.sessions.bare.thing import KINDS, SilentError, Thing
from orchestrator.sessions.inventory import snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orchestrator.engine.docker import Engine

_AT_ONCE: Final = 16


class EngineReaper:
    """What `RawReaper` does, one request after the other: it may run where no thread can start."""

    def __init__(self, engine: Engine, session: str, *, until: float) -> None:
        self.refused: dict[str, str] = {}
        self.uncertain = False
        self._engine = engine
        self._session = session
        self._until = until

    def listed(self) -> list[Thing]:
        """Everything of the session.

        Raises:
            SilentError: The daemon is away, hangs, or lists nothing.
        """
        try:
            found = snapshot(self._engine, {Label.SESSION: self._session})
        except EngineError as error:
            raise SilentError(str(error)) from error
        self.refused, self.uncertain = dict(found.refused), found.uncertain
        return [Thing(item.kind, item.id, item.name) for item in found.things]

    def remove(self, things: Iterable[Thing]) -> None:
        """Try once to remove these; the ``reason`` of each says why it did not go, if so."""
        for thing in sorted(things, key=_order):
            if time.monotonic() > self._until:
                thing.reason = "no time was left"
            else:
                _remove(self._engine, thing)


def remove_things(engine: Engine, things: Sequence[Thing], *, seconds: float) -> list[Thing]:
    """Remove these, again and again while the daemon refuses: it often does so for a moment only.

    Args:
        engine: The daemon.
        things: What to remove, in any order.
        seconds: For what does not go at the first attempt. A daemon that does not answer is not
            waited for: who cleans up later finds what is left.

    Returns:
        What is still there; the ``reason`` of each says why.
    """
    known = _Known(engine, things)
    with contextlib.suppress(SilentError):
        remove_in_time(known, seconds=seconds)
    return known.listed()


class _Known:
    """A reaper of things that are known, side by side; each is gone when its removal succeeded."""

    def __init__(self, engine: Engine, things: Iterable[Thing]) -> None:
        self.refused: dict[str, str] = {}
        self.uncertain = False
        self._engine = engine
        self._left = sorted(things, key=_order)

    def listed(self) -> list[Thing]:
        """What did not go yet."""
        return self._left

    def remove(self, things: Iterable[Thing]) -> None:
        """Try once to remove these: all of a kind at once, containers first.

        Raises:
            SilentError: No removal was answered.
        """
        answered = False
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="orchestrator-remove") as pool:
            for _kind, group in groupby(things, key=_order):
                answered |= any(list(pool.map(partial(_remove, self._engine), group)))
        self._left = [thing for thing in self._left if thing.reason]
        if not answered:
            raise SilentError(self._left[0].reason)


def _order(thing: Thing) -> int:
    return KINDS.index(thing.kind)


def _remove(engine: Engine, thing: Thing) -> bool:
    """Try once; whether the daemon answered."""
    removals: dict[str, Callable[[str], None]] = {
        "container": engine.remove_container,
        "network": engine.remove_network,
        "volume": engine.remove_volume,
        "image": engine.images.remove,
    }
    thing.reason = ""
    try:
        removals[thing.kind](thing.id)
    except EngineError as error:
        thing.reason = str(error)
        return error.status is not None
    return True
