"""Listing and removing one session's things through the engine, for daemons behind TLS or ssh."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from orchestrator.engine import labels
from orchestrator.errors import EngineError
from orchestrator.sessions.bare.thing import KINDS, SilentError, Thing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestrator.engine.port import Engine


class EngineReaper:
    """What `RawReaper` does, one request after the other: it may run where no thread can start."""

    def __init__(self, engine: Engine, session: str, *, until: float) -> None:
        self._engine = engine
        self._session = session
        self._until = until

    def listed(self) -> list[Thing]:
        """Everything of the session.

        Raises:
            SilentError: The daemon is away, hangs, or does not list.
        """
        try:
            found = self._engine.labelled({labels.SESSION: self._session})
        except EngineError as error:
            raise SilentError(str(error)) from error
        return [Thing(item.kind, item.id, item.name) for item in found]

    def remove(self, things: Iterable[Thing]) -> None:
        """Try once to remove these; the ``reason`` of each then says why it did not go, if so."""
        for thing in sorted(things, key=lambda thing: KINDS.index(thing.kind)):
            if time.monotonic() > self._until:
                thing.reason = "no time was left"
                continue
            thing.reason = removal_error(self._engine, thing.kind, thing.id)


def removal_error(engine: Engine, kind: str, id: str) -> str:  # noqa: A002  # Docker's word
    """Remove one thing; why it could not be, or an empty text."""
    removals: dict[str, Callable[[str], None]] = {
        "container": engine.remove_container,
        "network": engine.remove_network,
        "volume": engine.remove_volume,
        "image": engine.remove_image,
    }
    try:
        removals[kind](id)
    except EngineError as error:
        return str(error)
    return ""
