"""Who owns what, and what happens when the owner dies. README.md here draws it."""

from orchestrator.sessions.bare.thing import Thing
from orchestrator.sessions.engine_reaper import remove_things
from orchestrator.sessions.inventory import Inventory, Owned, Snapshot, inventory, snapshot
from orchestrator.sessions.liveness import Liveness
from orchestrator.sessions.own import own_session, supervised
from orchestrator.sessions.reaper import ReapReport, Spared, reap, remove_session
from orchestrator.sessions.selection import Selection
from orchestrator.sessions.session import Session

__all__ = [
    "Inventory",
    "Liveness",
    "Owned",
    "ReapReport",
    "Selection",
    "Session",
    "Snapshot",
    "Spared",
    "Thing",
    "inventory",
    "own_session",
    "reap",
    "remove_session",
    "remove_things",
    "snapshot",
    "supervised",
]
