"""The images of the lock file, for those who do not read it themselves."""

from __future__ import annotations

from orchestrator.images import find_lock, resolve_image
from orchestrator.settings import Settings


def image(entry: str) -> str:
    """What the engine is asked for: the reference of an entry of images.lock, by digest."""
    settings = Settings.from_environment()
    locked = resolve_image(None, default=entry, lock=find_lock(settings), settings=settings)
    return locked.reference.pinned
