"""The end of a session while its process still runs: what the exit and signal handlers do.

It uses nothing of the running program: no client, no lock, no thread (on 3.12 none can be started
in atexit), no logging, no print. What it cannot finish in time, the watchdog finishes.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Final

from orchestrator.errors import printable
from orchestrator.sessions.bare.removal import remove_in_time
from orchestrator.sessions.bare.thing import Thing
from orchestrator.sessions.clearing import reaper_of

if TYPE_CHECKING:
    from orchestrator.sessions.session import Session

_ANSWER: Final = 5.0
_CREATES_IN_FLIGHT: Final = 1.0


def end(session: Session, *, seconds: float) -> None:
    """Remove everything of a session within a bounded time, and never raise.

    Args:
        session: Of this process. It creates nothing after this.
        seconds: For all of it.
    """
    until = time.monotonic() + seconds
    session.gate.close()
    try:
        session.gate.wait_until_empty(seconds=_CREATES_IN_FLIGHT)
        reaper = reaper_of(session.id, endpoint=session.endpoint, patience=_ANSWER, until=until)
        seen, left = remove_in_time(reaper, seconds=until - time.monotonic())
        # What the daemon does not list goes by the names that are known.
        made = session.made.items()
        unlisted = [Thing(kind, name, name) for name, kind in made if kind in reaper.refused]
        reaper.remove(unlisted)
        left += [thing for thing in unlisted if thing.reason]
    except Exception as error:  # noqa: BLE001  # nothing may keep a process from ending
        _say(f"it is not known what is left of session {session.id}: {error}")
        return
    session.settle(seen)
    if left:
        what = "; ".join(f"{thing.kind} {thing.name}: {thing.reason}" for thing in left)
        _say(f"left behind in session {session.id}: {what}")
    elif not session.unsettled:
        session.bye()


def _say(what: str) -> None:
    """Tell the user, even where stderr is closed and print would raise."""
    text = (
        f"orchestrator: {printable(what, lines=False)}. Its watchdog goes on trying for two "
        "minutes; after that, run `python -m orchestrator reap`.\n"
    )
    with contextlib.suppress(OSError):
        os.write(2, text.encode(errors="replace"))
