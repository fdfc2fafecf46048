"""Removing things: within a bounded time for who waits, and until all is quiet for who does not.

Both take a reaper, so that they work over raw HTTP and over the full engine alike, for everything
of a session and for a few things that are known. Both end only with a listing that came back empty:
a removal that was accepted proves nothing, and a create whose client vanished may still be on its
way. Brief refusals (an endpoint that is still active, a device that is busy, a removal that is in
progress) are therefore tried again everywhere.
"""

from __future__ import annotations

import time

from .thing import SilentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    from .thing import Thing

    class Reaper(Protocol):
        """Lists and removes things.

        Attributes:
            refused: The kinds that the daemon did not list the last time, and its reasons: a filter
                before its socket may forbid it.
            uncertain: Whether it may list them when it is asked again.
        """

        refused: dict[str, str]
        uncertain: bool

        def listed(self) -> list[Thing]:
            """What is there now."""

        def remove(self, things: Iterable[Thing]) -> None:
            """Try once to remove these; the ``reason`` of each says why it did not go, if so."""


PATIENCE = 120.0  # seconds for a daemon that is away, and for things that do not go
LATE_CREATE = 60.0  # seconds for a create that was sent and never answered
QUIET = 2.0  # seconds without anything new
_SHORT = 0.02
_LONG = 0.5
_SILENT = 3
_HANGING = 1.0  # seconds; a connection that is cut takes less


def remove_in_time(reaper: Reaper, *, seconds: float) -> tuple[list[str], list[Thing]]:
    """Remove everything within a bounded time.

    Returns:
        The names of all things seen, and the things that are still there.

    Raises:
        SilentError: The daemon does not answer; what is left is unknown. A connection that is cut
            is tried again, a daemon that hangs or is away is not waited for.
    """
    deadline = time.monotonic() + seconds
    seen: list[str] = []
    pause = _SHORT
    silent = 0  # rounds in a row
    while True:
        asked = time.monotonic()
        try:
            things = reaper.listed()
            seen += [thing.name for thing in things]
            if not things or asked > deadline:
                return seen, things
            reaper.remove(things)
        except SilentError:
            silent += 1
            if silent == _SILENT or time.monotonic() - asked > _HANGING:
                raise
        else:
            silent = 0
            if not any(thing.reason for thing in things):
                continue
        time.sleep(pause)
        pause = min(2 * pause, _LONG)


def remove_until_quiet(reaper: Reaper, intents: set[str]) -> None:
    """Remove everything a dead owner left, and what its last creates still bring forth.

    Args:
        reaper: Removes the things of the dead session.
        intents: Names of things whose create was announced, and whose end was not.
    """
    now = time.monotonic()
    died = quiet = now
    pause = _SHORT
    while now - quiet < (LATE_CREATE if intents else QUIET) and now - died < PATIENCE:
        try:
            things = reaper.listed()
            reaper.remove(things)
        except Exception:  # noqa: BLE001  # away, hanging, talking nonsense: it may come back
            quiet = time.monotonic()
        else:
            intents.difference_update(thing.name for thing in things)
            if things or reaper.uncertain:
                quiet = time.monotonic()
            if things:
                pause = _SHORT
        time.sleep(pause)
        pause = min(1.5 * pause, _LONG)
        now = time.monotonic()
