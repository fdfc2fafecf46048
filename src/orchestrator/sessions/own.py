"""Owning a session: made when a process first needs one, before it creates anything."""

from __future__ import annotations

import atexit
import os
from typing import TYPE_CHECKING, Final

from orchestrator.sessions.ending import end
from orchestrator.sessions.session import Session
from orchestrator.sessions.signals import (
    arm_signals,
    disarm_signals,
    disown_signals,
    hold_signals,
    release_signals,
)
from orchestrator.sessions.slot import SLOT
from orchestrator.sessions.spawn import Supervisor
from orchestrator.sessions.sweep import sweep

if TYPE_CHECKING:
    from orchestrator.engine import Endpoint
    from orchestrator.engine.docker import Engine
    from orchestrator.settings import Settings

_EXIT_SECONDS: Final = 10.0


def supervised(pipe: int, *, patience: float) -> None:
    """Let a parent look at this process's containers when it has died, before they are removed.

    Must be called before the first session.

    Args:
        pipe: The reading end of a pipe whose writing end only the parent holds, and closes once it
            has looked.
        patience: Seconds in which this process ends by itself when the parent is gone; some later,
            its watchdog ends it.
    """
    SLOT.supervisor = Supervisor(pipe=pipe, patience=patience)


def own_session(engine: Engine, *, endpoint: Endpoint, settings: Settings) -> Session:
    """The session of the calling process.

    The first call sweeps what dead owners left, arms the exit and signal handlers and starts the
    watchdog. A forked child gets a session of its own.

    Raises:
        EngineUnavailableError: No daemon answers.
    """
    arm_signals()
    with SLOT.lock:
        return SLOT.get(endpoint) or _begin(engine, endpoint=endpoint, settings=settings)


def _begin(engine: Engine, *, endpoint: Endpoint, settings: Settings) -> Session:
    session = Session(endpoint=endpoint, run=settings.run, supervisor=SLOT.supervisor)
    if not SLOT.armed:
        atexit.register(_at_exit)
        os.register_at_fork(
            before=hold_signals,
            after_in_parent=release_signals,
            after_in_child=_begin_again,
        )
        SLOT.armed = True
    try:
        session.watch(
            meanwhile=lambda: sweep(
                engine,
                endpoint=endpoint,
                here=session.owner,
                own=SLOT.ids(),
                # Its supervisor wants to see what a dead sibling left.
                spare_run=None if session.supervisor is None else session.run,
            )
        )
    except BaseException:
        session.bye()
        session.disown()
        raise
    SLOT.put(session)
    return session


def _begin_again() -> None:
    """In a forked child."""
    SLOT.after_fork()
    disown_signals()


def _at_exit() -> None:
    """The second layer. Class clean-ups come first; on Ctrl-C unittest skips them."""
    sessions = SLOT.sessions()
    if not sessions:  # also in a forked child that ends by sys.exit
        return
    disarm_signals()
    for session in sessions:
        if session.endpoint.url.startswith("ssh://"):
            # Each connection takes a new process, which Python 3.12 no longer starts at exit.
            session.gate.close()  # the watchdog does all the rest
        else:
            end(session, seconds=_EXIT_SECONDS)
