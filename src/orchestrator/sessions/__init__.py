"""Who owns what, and what happens when the owner dies. README.md here draws it."""

from orchestrator.sessions.inventory import Owned, inventory
from orchestrator.sessions.liveness import Liveness
from orchestrator.sessions.own import own_session, supervised
from orchestrator.sessions.reaper import ReapReport, Spared, reap, remove_session
from orchestrator.sessions.selection import Selection
from orchestrator.sessions.session import Session

__all__ = [
    "Liveness",
    "Owned",
    "ReapReport",
    "Selection",
    "Session",
    "Spared",
    "inventory",
    "own_session",
    "reap",
    "remove_session",
    "supervised",
]
