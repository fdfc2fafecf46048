"""The locked images as one file, for CI caches and for machines that reach no registry.

An archive is what ``docker save`` writes, with the lock entries as its first member; ``docker
load`` reads it too.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from orchestrator.errors import DigestMismatchError, EngineError, LockError
from orchestrator.files import replacing
from orchestrator.images.archive_file import BLOBS, Contents, compressed, open_archive, rewritten
from orchestrator.images.archive_file import member as file_in_tar
from orchestrator.images.archive_images import (
    agreed_entries,
    check_images,
    closing_members,
    recognised_entries,
)
from orchestrator.images.lock import NEW, edited, write_entries
from orchestrator.images.lockfile import (
    LockedImage,
    LockedPlatform,
    LockFile,
    check_allowed,
    parse_archived_lock,
)
from orchestrator.images.presence import find_image, is_locked, mismatch, platform_of
from orchestrator.images.registry import concurrent_map, read_proof

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from orchestrator.engine.api import ImageInfo
    from orchestrator.engine.docker import Engine
    from orchestrator.images.archive_file import Readable
    from orchestrator.images.archive_images import ArchivedImage
    from orchestrator.images.registry import Registries
    from orchestrator.settings import Settings

MEMBER: Final = "orchestrator/images.lock"


class _ChunkReader:
    """Makes the chunks of an iterator readable like a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, size: int = -1, /) -> bytes:
        """Read at most so many bytes; fewer are not yet the end."""
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        piece, self._rest = self._rest[:size], self._rest[size:]
        return bytes(piece)


def save_images(
    engine: Engine,
    images: Sequence[LockedImage],
    path: Path,
    *,
    settings: Settings,
    open_registries: Callable[[], Registries],
    report: Callable[[str], None],
) -> int:
    """Write images and their entries into one file, compressed as its name ends.

    The file appears when it is whole and verified, never before. Returns its size in bytes.

    Args:
        engine: The daemon that has the images.
        images: What to save.
        path: The file.
        settings: Mirrors.
        open_registries: Asked for the manifests of an image whose entry has no config digest, so
            that `load` has a proof of it.
        report: Takes a line about each image that there is no proof of.

    Raises:
        LockError: An image is not here with the locked bytes, or the file cannot be written.
        EngineError: The daemon failed.
    """
    found = [_have(engine, image, settings) for image in images]
    entries = {i.name: _with_config(i, info) for i, info in zip(images, found, strict=True)}
    names = [_saved_name(i, info) for i, info in zip(images, found, strict=True)]
    unproven = [(i, info) for i, info in zip(images, found, strict=True) if not _named(info, i)]
    proofs = (
        _proofs(open_registries(), unproven, settings=settings, report=report) if unproven else {}
    )
    contents, what = Contents(), "what the daemon saved"

    def finish() -> Iterator[tuple[str, bytes]]:
        checked = check_images(contents, entries, name=what)
        for digest, document in proofs.items():
            member = f"{BLOBS}{digest.removeprefix('sha256:')}"
            if member not in contents.documents:
                contents.documents[member] = document
                contents.digests[member] = digest
        yield from closing_members(contents, checked, entries)

    with _archive_file(path) as file, compressed(file, name=path.name) as out:
        out.write(file_in_tar(MEMBER, edited(NEW, path=path, images=entries.values()).encode()))
        source = _ChunkReader(engine.images.save(list(dict.fromkeys(names))))
        for piece in rewritten(
            source,
            contents,
            name=what,
            on_document=lambda *_: None,
            finish=finish,
            layers=False,  # the daemon knows them; whoever loads them looks closely
        ):
            out.write(piece)
    return path.stat().st_size


def _proofs(
    registries: Registries,
    unproven: Sequence[tuple[LockedImage, ImageInfo]],
    *,
    settings: Settings,
    report: Callable[[str], None],
) -> dict[str, bytes]:
    """Ask the registries for the manifests that lead from each locked digest to its image."""

    def proof(pair: tuple[LockedImage, ImageInfo]) -> Mapping[str, bytes]:
        image, info = pair
        try:
            return read_proof(registries, image, info, settings=settings)
        except EngineError as error:
            report(
                f"{image.reference.familiar}: {error}. `load` will refuse it where images.lock "
                "knows it by this digest alone: `python -m orchestrator lock` notes more"
            )
            return {}

    return {digest: raw for one in concurrent_map(proof, unproven) for digest, raw in one.items()}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What `load_images` did.

    Attributes:
        entries: The entries whose images the archive had, as they are now.
        noted: The names of those whose platform's digests went into the lock file.
    """

    entries: Sequence[LockedImage]
    noted: Sequence[str]


def load_images(engine: Engine, path: Path, lock: LockFile, *, settings: Settings) -> Loaded:
    """Load an archive whose images are those of the lock; return the entries it has.

    The daemon gets layers and documents of the archive under names of our own, and the end only
    after all of it was verified, so that nothing is loaded from one that is wrong. Then the daemon
    is asked for each image by its tag: where it is not what was verified, every tag is put back.
    An image that the lock knows by the registry's digest alone gets the digests of its platform
    noted there, by which it is known from then on.

    Raises:
        DigestMismatchError: An image is not the locked one; the message names it.
        LockError: The archive is cut off, damaged or not one of images, an image is not from a
            registry of ``ORCHESTRATOR_REGISTRIES``, or the lock file cannot be written.
        EngineError: The daemon failed.
    """
    # The packaged lock is nobody's decision: without a lock file the archive's own entries count.
    locked = None if lock.is_default else lock.entries
    load = _Load(engine, locked, settings=settings, name=str(path))
    try:
        with open_archive(path) as source:
            for _ in engine.images.load(load.stream(source)):
                pass
        entries = {name: load.entry_now(name) for name in load.entries}
        noted = [name for name, entry in entries.items() if entry != load.entries[name]]
        if noted and locked is not None:
            write_entries(lock, [entries[name] for name in noted])
    except BaseException:
        load.restore()
        raise
    return Loaded(entries=list(entries.values()), noted=noted)


@dataclass
class _Load:
    """Loads one archive: verifies what it passes on, and can undo what the daemon made of it.

    Attributes:
        entries: The entries that the archive has.
        images: What was verified; nothing before all of it was.
        before: What each tag stood for, and which images were here, before the daemon got the end.
    """

    engine: Engine
    locked: Mapping[str, LockedImage] | None
    settings: Settings = field(kw_only=True)
    name: str = field(kw_only=True)
    entries: dict[str, LockedImage] = field(default_factory=dict)
    images: list[ArchivedImage] = field(default_factory=list)
    before: dict[str, ImageInfo | None] = field(default_factory=dict)

    def stream(self, source: Readable) -> Iterator[bytes]:
        """The archive as the daemon is given it: verified, and with names that we chose."""
        contents = Contents()

        def on_document(member: str, content: bytes) -> None:
            if member == MEMBER:  # it comes first: what is for another lock is not read in vain
                archived = parse_archived_lock(content, path=Path(self.name) / MEMBER).entries
                check_allowed(archived.values(), settings=self.settings)
                self.entries |= (
                    archived
                    if self.locked is None
                    else agreed_entries(archived, self.locked, name=self.name)
                )

        def finish() -> Iterator[tuple[str, bytes]]:
            if not self.entries:  # made by `docker save`: only the lock file can tell what it is
                self.entries |= recognised_entries(contents, self.locked or {}, name=self.name)
                check_allowed(self.entries.values(), settings=self.settings)
            self.images = check_images(contents, self.entries, name=self.name)
            tags = [entry.reference.tagged for entry in self.entries.values()]
            configs = [image.config for image in self.images]
            self.before = {name: self.engine.images.find(name) for name in (*tags, *configs)}
            yield from closing_members(contents, self.images, self.entries)

        return rewritten(source, contents, name=self.name, on_document=on_document, finish=finish)

    def entry_now(self, name: str) -> LockedImage:
        """Check that the daemon has an entry's image; add its digests where they lack."""
        entry = self.entries[name]
        info = self.engine.images.find(entry.reference.tagged)
        images = {image.config: image for image in self.images if name in image.entries}
        manifests = {image.manifest.digest for image in images.values() if image.manifest}
        if info is None or info.id not in {entry.digest, *images, *manifests}:
            raise DigestMismatchError(
                f"{name}: the daemon loaded the archive, but has {info.id if info else 'nothing'} "
                f"as {entry.reference.familiar}, not {entry.digest}; that was put back. Where "
                "Docker keeps images in containerd's store, an archive of its other store has not "
                "what they are known by: python -m orchestrator pull"
            )
        if is_locked(info, entry):
            return entry
        noted = {
            image.platform: LockedPlatform(
                config=image.config, manifest=image.manifest.digest if image.manifest else None
            )
            for image in images.values()
        }
        return replace(entry, platforms={**entry.platforms, **noted})

    def restore(self) -> None:
        """Move every tag back to the image it named before, and remove images that are new."""
        for name, old in self.before.items():
            with contextlib.suppress(EngineError):  # the failure that led here is the one to tell
                now = self.engine.images.find(name)
                if now is None or (old and now.id == old.id):
                    continue
                if old:
                    self.engine.images.tag(old.id, as_reference=name)
                elif now.id == name and now.tags:
                    continue  # somebody else has given it a name meanwhile
                elif not self.before.get(now.id) or len(now.tags) > 1:
                    self.engine.images.remove(name)


def _have(engine: Engine, image: LockedImage, settings: Settings) -> ImageInfo:
    presence = find_image(engine.images, image, settings=settings)
    if presence.info:
        return presence.info
    if presence.other:
        raise mismatch(image, presence.other)
    raise LockError(
        f"{image.reference.familiar} is not on this machine. Run: python -m orchestrator pull"
    )


def _named(info: ImageInfo, image: LockedImage) -> bool:
    """Whether the entry names the image by id, which survives `docker load`."""
    configs = {platform.config for platform in image.platforms.values()}
    return not image.digest or info.id in configs or info.id == image.digest


def _with_config(image: LockedImage, info: ImageInfo) -> LockedImage:
    """The entry with the image's config digest noted, where the daemon's store has one."""
    name = platform_of(info)
    if name in image.platforms or info.id == image.digest:
        return image
    return replace(image, platforms={**image.platforms, name: LockedPlatform(config=info.id)})


def _saved_name(image: LockedImage, info: ImageInfo) -> str:
    """The name to save an image by: its tag, or its id where the tag is another image's."""
    return image.reference.tagged if image.reference.familiar in info.tags else info.id


@contextlib.contextmanager
def _archive_file(path: Path) -> Iterator[IO[bytes]]:
    """Open the archive for writing; it appears under its name only when it is complete."""
    if path.exists() and not path.is_file():
        raise LockError(f"{path} cannot be written: it is not a file")
    try:
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise LockError(f"{path} cannot be written: {error.strerror or error}") from error
