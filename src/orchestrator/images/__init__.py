"""The supply of images: references, the lock file, pulling, archives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.images.lockfile import (
    LockedImage,
    LockedPlatform,
    LockFile,
    find_lock,
    read_lock,
    resolve_image,
)
from orchestrator.images.presence import find_image, mismatch, on_platform
from orchestrator.images.reference import Reference, parse_reference

if TYPE_CHECKING:
    import threading

    from orchestrator.engine.api import ImageInfo
    from orchestrator.engine.docker import Engine
    from orchestrator.settings import Settings

__all__ = [
    "LockFile",
    "LockedImage",
    "LockedPlatform",
    "Reference",
    "ensure_image",
    "find_lock",
    "parse_reference",
    "read_lock",
    "resolve_image",
]


def ensure_image(
    engine: Engine,
    image: LockedImage,
    *,
    settings: Settings,
    stopping: threading.Event | None = None,
) -> ImageInfo:
    """Make sure that the locked bytes of an image are on this machine; pull them if not.

    When they are here, that is one question to the daemon. A pull is by digest, and is shown while
    it happens. What failed in this run is not tried again. Once ``stopping`` is set, a pull
    under way is given up. Other bytes under the tag, or from the registry, are a
    DigestMismatchError. Start the container from the returned ``id``: a tag may move.
    """
    found = on_platform(engine, image, find_image(engine.images.find, image, settings=settings))
    if found.info is not None:
        return found.info
    if found.other is not None:
        raise mismatch(image, found.other)
    from orchestrator.images.pull import pull_missing  # seldom needed

    return pull_missing(
        engine, image, settings=settings, platform=found.platform, stopping=stopping
    )
