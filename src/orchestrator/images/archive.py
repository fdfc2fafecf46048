"""The locked images as one file, for CI caches and for machines that reach no registry.

An archive is what ``docker save`` writes, with the lock entries as its first member; ``docker
load`` reads it too.
"""

from __future__ import annotations

import contextlib
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from orchestrator.errors import DigestMismatchError, LockError
from orchestrator.images.allowed import check_allowed
from orchestrator.images.archive_check import check_agreement, check_images, proofs
from orchestrator.images.archive_stream import Contents, checked_stream
from orchestrator.images.compression import compressed, open_archive
from orchestrator.images.editing import NEW, edited, part_of
from orchestrator.images.lockfile import LockedImage, LockedPlatform, LockFile, parse_lock
from orchestrator.images.presence import find_image, is_locked, loaded_tag, mismatch, platform_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.engine.port import Engine, ImageInfo
    from orchestrator.images.archive_stream import Readable
    from orchestrator.settings import Settings

MEMBER: Final = "orchestrator/images.lock"


class _Pieces:
    """An iterator of pieces as a stream to read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        """Read at most so many bytes; fewer are not yet the end."""
        if not self._rest:
            self._rest = next(self._pieces, b"")
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


def save_images(engine: Engine, images: Sequence[LockedImage], path: Path) -> int:
    """Write images and their entries into one file, compressed as its name ends.

    The file appears when it is whole and verified, never before. Returns its size in bytes.

    Raises:
        LockError: An image is not here with the locked bytes, or the file cannot be written.
        EngineError: The daemon failed.
    """
    found = [_have(engine, image) for image in images]
    entries = {i.name: _with_config(i, info) for i, info in zip(images, found, strict=True)}
    names = [_saved_name(i, info) for i, info in zip(images, found, strict=True)]
    contents = Contents()
    with _appearing(path) as file, compressed(file, name=path.name) as out:
        out.write(_member(edited(NEW, path=path, images=entries.values()).encode()))
        source = _Pieces(engine.save_images(list(dict.fromkeys(names))))
        what = "what the daemon saved"
        for piece in checked_stream(
            source,
            contents,
            name=what,
            on_member=lambda _: None,
            verify=lambda: check_images(contents, entries, name=what, layers=False),
            layers=False,  # the daemon knows them; whoever loads them looks closely
        ):
            out.write(piece)
    return path.stat().st_size


def load_images(
    engine: Engine, path: Path, lock: LockFile, *, settings: Settings
) -> list[LockedImage]:
    """Load an archive whose images are those of the lock; return the entries it has.

    The daemon gets the end of the archive only after all of it was verified, so that nothing is
    loaded from one that is wrong.

    Raises:
        DigestMismatchError: An image is not the locked one; the message names it.
        LockError: The archive is cut off, damaged or not one of images, or an image is not from
            a registry of ``ORCHESTRATOR_REGISTRIES``.
        EngineError: The daemon failed.
    """
    with open_archive(path) as source:
        entries = _load(engine, source, lock, settings=settings, name=str(path))
    for entry in entries.values():
        _after_load(engine, entry, lock)
    return list(entries.values())


def _load(
    engine: Engine, source: Readable, lock: LockFile, *, settings: Settings, name: str
) -> Mapping[str, LockedImage]:
    contents = Contents()
    # The packaged lock is nobody's decision: without a lock file the archive's own entries count.
    locked = {} if lock.is_default else dict(lock.entries)
    entries: dict[str, LockedImage] = {}

    def on_member(member: str) -> None:
        if member == MEMBER:
            archived = parse_lock(contents.documents[MEMBER], path=Path(name) / MEMBER).entries
            check_allowed(archived.values(), settings=settings)
            check_agreement(archived, locked, name=name)
            entries.update({e.name: _joined(e, locked.get(e.name)) for e in archived.values()})

    def verify() -> None:
        if not entries:  # made by `docker save`: only the lock file here can tell what it is
            entries.update(_recognised(contents, locked))
            check_allowed(entries.values(), settings=settings)
        check_images(contents, entries, name=name)

    stream = checked_stream(source, contents, name=name, on_member=on_member, verify=verify)
    for _ in engine.load_images(stream):
        pass
    return entries


def _recognised(contents: Contents, locked: Mapping[str, LockedImage]) -> dict[str, LockedImage]:
    """The entries whose image is in an archive that has no entries itself."""
    digests = set(contents.digests.values())
    return {name: entry for name, entry in locked.items() if proofs(entry) & digests}


def _joined(archived: LockedImage, locked: LockedImage | None) -> LockedImage:
    """An archive's entry; what it says of the platforms counts only where the lock is silent."""
    return (
        replace(archived, platforms=locked.platforms) if locked and locked.platforms else archived
    )


def _after_load(engine: Engine, entry: LockedImage, lock: LockFile) -> None:
    """See that the image is here, and that a service will find it."""
    info = find_image(engine, entry).info
    if info is None:
        raise DigestMismatchError(
            f"{entry.name}: the daemon loaded the archive, but has no {entry}"
        )
    if entry.reference.familiar not in info.tags:
        engine.tag_image(info.id, as_reference=entry.reference.tagged)
    locked = None if lock.is_default else lock.entries.get(entry.name)
    if locked and entry.digest and not is_locked(info, locked):
        engine.tag_image(info.id, as_reference=loaded_tag(entry.digest))


def _have(engine: Engine, image: LockedImage) -> ImageInfo:
    presence = find_image(engine, image)
    if presence.info:
        return presence.info
    if presence.other:
        raise mismatch(image, presence.other)
    raise LockError(
        f"{image.reference.familiar} is not on this machine. Run: python -m orchestrator pull"
    )


def _with_config(image: LockedImage, info: ImageInfo) -> LockedImage:
    """The entry with what the daemon knows: the config digest, unless its store has none."""
    name = platform_of(info)
    if name in image.platforms or info.id == image.digest:
        return image
    return replace(image, platforms={**image.platforms, name: LockedPlatform(config=info.id)})


def _saved_name(image: LockedImage, info: ImageInfo) -> str:
    """By tag, so that it is saved with it; by id where the tag is another image's."""
    return image.reference.tagged if image.reference.familiar in info.tags else info.id


def _member(content: bytes) -> bytes:
    """One file of a tar, with no end behind it."""
    about = tarfile.TarInfo(MEMBER)
    about.size = len(content)
    about.mode = 0o644
    padding = bytes(-len(content) % tarfile.BLOCKSIZE)
    return about.tobuf(tarfile.USTAR_FORMAT) + content + padding


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place when it is whole, and is gone otherwise."""
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise LockError(f"{path} cannot be written: it is not a file")
    try:
        part = part_of(path)
        try:
            with part.open("xb") as file:
                yield file
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
    except OSError as error:
        raise LockError(f"{path} cannot be written: {error.strerror or error}") from error
