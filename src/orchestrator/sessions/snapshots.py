"""Snapshots: volumes with the data of prepared servers, which outlive the sessions that made them.

A volume with data is its session's, as anything else, until a second one names it: that is empty,
says what is in the first, and is created last. Volumes never change, so a snapshot is there or not;
who removes it takes away its name first, and what is then left goes with the session.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.engine.api import Label
from orchestrator.sessions.bare.removal import Thing
from orchestrator.sessions.reap import remove_things, snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.engine.docker import Engine
    from orchestrator.sessions.session import Session

_KEY: Final = re.compile(r"[0-9a-f]{64}")
_REMOVAL: Final = 1.0  # seconds; one that a server starts from right now stays until later


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A volume with a server's data, made for a service of a class.

    Attributes:
        key: What it is a snapshot of.
        size: Bytes, of the tar that is in it.
        marker: The volume that keeps it; empty for one that goes with its session.
        used: When a class of this user started from it last.
        is_whole: Whether its volume was there.
    """

    key: str
    volume: str
    size: int
    test_class: str = ""
    service: str = ""
    marker: str = ""
    used: datetime | None = None
    is_whole: bool = True


def list_snapshots(engine: Engine, *, key: str | None = None) -> Sequence[Snapshot]:
    """What is kept at a daemon, all or of one key; the one that was used last comes first."""
    listed, _ = snapshot(engine, {Label.SNAPSHOT: key}, kept=True, kinds=["volume"])
    volumes = {volume.name: volume.labels for volume in listed}
    found = []
    for name, labels in volumes.items():
        with contextlib.suppress(KeyError, TypeError, ValueError):  # somebody else's
            about: Mapping[str, Any] = json.loads(labels[Label.ABOUT])
            volume = labels[Label.KEPT].removeprefix("volume:")
            its_key = labels[Label.SNAPSHOT]
            found.append(
                Snapshot(
                    key=its_key,
                    volume=volume,
                    size=int(about["size"]),
                    test_class=str(about["class"]),
                    service=str(about["service"]),
                    marker=name,
                    used=_used(its_key) or datetime.fromisoformat(labels[Label.CREATED]),
                    is_whole=volume in volumes,
                )
            )
    found.sort(key=lambda it: it.marker)
    return sorted(found, key=lambda it: it.used or datetime.min.replace(tzinfo=UTC), reverse=True)


def keep_snapshot(engine: Engine, session: Session, made: Snapshot) -> None:
    """Let a volume of the session's outlive it, as a snapshot."""
    marker = session.name("snapshot")
    about = {"size": made.size, "class": made.test_class, "service": made.service}
    labels = {
        **session.labels(),
        Label.KEPT: f"volume:{made.volume}",
        Label.SNAPSHOT: made.key,
        Label.ABOUT: json.dumps(about),
    }
    with session.creating("volume", marker):
        engine.create_volume(marker, labels=labels)
    for name in (marker, made.volume):
        session.forget(name)
    note_use(made.key)


def remove_snapshots(engine: Engine, found: Sequence[Snapshot]) -> Sequence[Thing]:
    """Remove snapshots; what is still there. A server that started from one keeps what it has."""
    markers = [Thing("volume", it.marker, it.marker) for it in found if it.marker]
    left = remove_things(engine, markers, seconds=_REMOVAL)
    data = [Thing("volume", it.volume, it.volume) for it in found]
    return [*left, *remove_things(engine, data, seconds=_REMOVAL)]


def limit_snapshots(engine: Engine, size: int) -> None:
    """Remove those that were not used for the longest time, so that the others are this large.

    Of two that were made at once, and of the same, one goes.
    """
    total, gone, kept = 0, [], set()
    for it in list_snapshots(engine):
        if not it.is_whole or it.key in kept or total + it.size > size:
            gone.append(it)
            continue
        kept.add(it.key)
        total += it.size
    if gone:
        remove_snapshots(engine, gone)


def note_use(key: str) -> None:
    """Note that a snapshot is of use now, for who has to choose what goes."""
    with contextlib.suppress(OSError, RuntimeError):  # without a home it counts by its age
        path = _note(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _used(key: str) -> datetime | None:
    with contextlib.suppress(OSError, RuntimeError):
        return datetime.fromtimestamp(_note(key).stat().st_mtime, UTC)
    return None


def _note(key: str) -> Path:
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is the key of no snapshot")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "orchestrator" / "snapshots" / key
