"""The supply of images: references, the lock file, pulling, archives."""

from orchestrator.images.lockfile import (
    LockedImage,
    LockedPlatform,
    LockFile,
    find_lock,
    read_lock,
    resolve_image,
)
from orchestrator.images.presence import ensure_image
from orchestrator.images.reference import Reference, parse_reference

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
