"""Who owns what, and what happens when the owner dies. README.md here draws it."""

from orchestrator.sessions.bare.removal import KINDS, Thing
from orchestrator.sessions.identity import Liveness
from orchestrator.sessions.process_sessions import (
    departed,
    end_session,
    is_supervised,
    own_session,
    supervised,
)
from orchestrator.sessions.reap import (
    Inventory,
    Owned,
    ReapReport,
    Selection,
    inventory,
    reap,
    remove_kept,
    remove_session,
    remove_things,
    snapshot,
)
from orchestrator.sessions.session import Session
from orchestrator.sessions.snapshots import (
    Snapshot,
    keep_snapshot,
    limit_snapshots,
    list_snapshots,
    note_use,
    remove_snapshots,
)

__all__ = [
    "KINDS",
    "Inventory",
    "Liveness",
    "Owned",
    "ReapReport",
    "Selection",
    "Session",
    "Snapshot",
    "Thing",
    "departed",
    "end_session",
    "inventory",
    "is_supervised",
    "keep_snapshot",
    "limit_snapshots",
    "list_snapshots",
    "note_use",
    "own_session",
    "reap",
    "remove_kept",
    "remove_session",
    "remove_snapshots",
    "remove_things",
    "snapshot",
    "supervised",
]
