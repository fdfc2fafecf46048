"""From what a service asks for to one locked image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import ImageNotLockedError
from orchestrator.images.allowed import check_allowed
from orchestrator.images.lockfile import DEFAULT, LockedImage, LockFile, read_lock
from orchestrator.images.reference import parse_reference

if TYPE_CHECKING:
    from orchestrator.images.reference import Reference
    from orchestrator.settings import Settings


def resolve_image(
    image: str | None, *, default: str, lock: LockFile, settings: Settings
) -> LockedImage:
    """Find the image a service runs.

    Args:
        image: The name of an entry, a locked reference, or a reference with a digest; None takes
            the entry of the service.
        default: The service's own entry, such as ``"postgres"``.
        lock: The lock file that counts.
        settings: ``ORCHESTRATOR_UNLOCKED=allow`` lets through what is not locked, without digest.

    Raises:
        InvalidReferenceError: The reference cannot be read.
        ImageNotLockedError: It is not locked; the message has the command that locks it.
        LockError: It is not from a registry of ``ORCHESTRATOR_REGISTRIES``.
    """
    found = _find(image, default=default, lock=lock, settings=settings)
    check_allowed([found], settings=settings)
    return found


def _find(image: str | None, *, default: str, lock: LockFile, settings: Settings) -> LockedImage:
    name = default if image is None else image
    if name in lock.entries:
        return lock.entries[name]
    packaged = _packaged(default) if image is None else None
    if image is None and packaged is None:
        raise ImageNotLockedError(
            f"{_place(lock)} has no entry {default!r}. "
            f"Add one: python -m orchestrator lock {default}=REFERENCE"
        )
    reference = packaged.reference.with_digest(None) if packaged else parse_reference(name)
    if reference.digest:
        return _by_digest(name, reference, lock)
    if entry := lock.find(reference):
        return entry
    if settings.unlocked == "allow":
        return packaged or LockedImage(name=name, reference=reference)
    what = f"has no entry {default!r}" if image is None else f"does not lock {name!r}"
    raise ImageNotLockedError(
        f"{_place(lock)} {what}. Lock it: python -m orchestrator lock {reference.familiar} "
        "(or give the reference with its digest, or set ORCHESTRATOR_UNLOCKED=allow)"
    )


def _by_digest(name: str, reference: Reference, lock: LockFile) -> LockedImage:
    """A reference that is its own lock; an entry with the same digest knows its platforms."""
    same = (e for e in lock.entries.values() if e.digest == reference.digest)
    entry = next(same, None)
    return LockedImage(name=name, reference=reference, platforms=entry.platforms if entry else {})


def _packaged(name: str) -> LockedImage | None:
    return read_lock(DEFAULT).entries.get(name)


def _place(lock: LockFile) -> str:
    return "the packaged lock (there is no images.lock)" if lock.is_default else str(lock.path)
