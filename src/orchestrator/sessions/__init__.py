"""Who owns what, and what happens when the owner dies. README.md here draws it."""

from orchestrator.sessions.bare.removal import KINDS, Thing
from orchestrator.sessions.identity import Liveness
from orchestrator.sessions.process_sessions import departed, own_session, supervised
from orchestrator.sessions.reap import (
    Inventory,
    Owned,
    ReapReport,
    Selection,
    Spared,
    inventory,
    reap,
    remove_kept,
    remove_session,
    remove_things,
    snapshot,
)
from orchestrator.sessions.session import Session

__all__ = [
    "KINDS",
    "Inventory",
    "Liveness",
    "Owned",
    "ReapReport",
    "Selection",
    "Session",
    "Spared",
    "Thing",
    "departed",
    "inventory",
    "own_session",
    "reap",
    "remove_kept",
    "remove_session",
    "remove_things",
    "snapshot",
    "supervised",
]
