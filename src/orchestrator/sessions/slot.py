"""The one thing this package keeps per process: which sessions the process owns.

A session is a process, so this cannot be an argument: exit handlers, signal handlers and forked
children all have to find it.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from orchestrator.engine import Endpoint
    from orchestrator.sessions.session import Session
    from orchestrator.sessions.spawn import Supervisor


class Slot:
    """The sessions of the calling process, one for each daemon it uses.

    Attributes:
        lock: Held while a session is made.
        armed: Whether this process (or the one it was forked from) has its handlers in place.
        supervisor: Who wants to look at our things when this process is dead.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.armed = False
        self.supervisor: Supervisor | None = None
        self._sessions: dict[Endpoint, Session] = {}

    def get(self, endpoint: Endpoint) -> Session | None:
        """This process's session at a daemon."""
        session = self._sessions.get(endpoint)
        return session if session is not None and session.owner.pid == os.getpid() else None

    def put(self, session: Session) -> None:
        """Keep a session; it begins to own things only now."""
        self._sessions[session.endpoint] = session

    def sessions(self) -> list[Session]:
        """All sessions this process owns; takes no lock, signal handlers ask."""
        return [one for one in tuple(self._sessions.values()) if one.owner.pid == os.getpid()]

    def ids(self) -> list[str]:
        """The ids of all sessions this process owns."""
        return [session.id for session in self.sessions()]

    def after_fork(self) -> None:
        """In a child: own nothing, and let go of the parent's watchdogs."""
        self.lock = threading.Lock()  # another thread of the parent may have held it
        self.supervisor = None
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            session.disown()


SLOT: Final = Slot()
