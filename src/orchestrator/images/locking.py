"""The work of `lock`: adding, updating and checking entries against their registries."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import EngineError, LockError
from orchestrator.images.abreast import abreast
from orchestrator.images.editing import NEW, edited, write_lock
from orchestrator.images.lockfile import ENTRY_NAME, FILE_NAME, LockedImage, LockFile, parse_lock
from orchestrator.images.lookup import look_up
from orchestrator.images.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orchestrator.images.lookup import Registry
    from orchestrator.images.reference import Reference
    from orchestrator.images.retry import Retry
    from orchestrator.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a registry said about one image.

    Attributes:
        image: The image as asked for.
        now: The image as the registry has it, or None when it failed.
        error: Why it failed, or None.
    """

    image: LockedImage
    now: LockedImage | None
    error: EngineError | None = None

    @property
    def moved(self) -> bool:
        """Whether the tag stands for other bytes than the locked ones."""
        return self.now is not None and self.now.digest != self.image.digest


def ask(
    registry: Registry,
    images: Sequence[LockedImage],
    *,
    settings: Settings,
    report: Callable[[str], None],
    retry: Retry | None = None,
) -> list[Answer]:
    """Ask for several images at once: by tag where the reference has no digest."""
    stopping = threading.Event()

    def one(image: LockedImage) -> Answer:
        try:
            now = look_up(
                registry, image, settings=settings, report=report, retry=retry, stopping=stopping
            )
        except EngineError as error:
            return Answer(image=image, now=None, error=error)
        return Answer(image=image, now=now)

    try:
        return abreast(one, images)
    except BaseException:
        stopping.set()
        raise


def requested(texts: Iterable[str], lock: LockFile) -> list[LockedImage]:
    """The images of ``lock REF…``, each ``REFERENCE`` or ``NAME=REFERENCE``, under their names.

    Without a name, the entry with the same repository is meant, or one is named after the last
    part of the repository.

    Raises:
        InvalidReferenceError: A reference cannot be read.
        LockError: A name cannot be used, or belongs to another image.
    """
    found: dict[str, LockedImage] = {}
    for text in texts:
        given, equals, rest = text.rpartition("=")
        reference = parse_reference(rest)
        if not reference.tag:
            raise LockError(f"{text!r} has no tag; lock needs one, to see later where it moved")
        name = given if equals else _name(reference, lock)
        if not ENTRY_NAME.fullmatch(name):
            raise LockError(f"{name!r} is no name; it may hold letters, digits, '-' and '_'")
        if name in found:
            raise LockError(f"two images for the entry {name!r}; name one: NAME={rest}")
        found[name] = LockedImage(name=name, reference=reference)
    return list(found.values())


def unpinned(image: LockedImage) -> LockedImage:
    """The image as its tag, to ask what that is now."""
    return LockedImage(name=image.name, reference=image.reference.with_digest(None))


def write_entries(lock: LockFile, images: Sequence[LockedImage]) -> Path:
    """Write changed entries, and return where: the lock file, or a new one where none is.

    The packaged lock is never written; what it has becomes the beginning of the new one.

    Raises:
        LockError: The file cannot be written.
    """
    if not lock.is_default:
        write_lock(lock.path, edited(lock.text, path=lock.path, images=images), expected=lock.text)
        return lock.path
    path = Path.cwd() / FILE_NAME
    write_lock(path, edited(NEW, path=path, images=images), expected=None)
    return path


def cache_key(lock: LockFile) -> str:
    """A key for CI caches: changes when an image does, not with comments, order or layout."""
    words = sorted(f"{entry.name} {entry}" for entry in lock.entries.values())
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def empty_lock(path: Path) -> LockFile:
    """A lock file that is not there yet."""
    return parse_lock(NEW.encode(), path=path)


def _name(reference: Reference, lock: LockFile) -> str:
    same = [e.name for e in lock.entries.values() if e.reference.name == reference.name]
    if len(same) > 1:
        raise LockError(
            f"several entries are {reference.name}: {', '.join(same)}; "
            f"say which: {same[0]}={reference.familiar}"
        )
    if same and not lock.is_default:
        return same[0]
    name = re.sub(r"[^A-Za-z0-9_-]", "-", reference.repository.rpartition("/")[2])
    if name in lock.entries and not lock.is_default:
        raise LockError(
            f"the entry {name!r} is {lock.entries[name].reference.familiar}; "
            f"give another name: NAME={reference.familiar}"
        )
    return name
