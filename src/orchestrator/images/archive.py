"""The locked images as one file, for CI caches and for machines that reach no registry.

An archive is what ``docker save`` writes, with the lock entries as its first member; ``docker
load`` reads it too.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Final, NamedTuple

from orchestrator.errors import DigestMismatchError, EngineError, LockError
from orchestrator.files import replacing
from orchestrator.images.archive_file import Contents, compressed, open_archive, rewritten
from orchestrator.images.archive_file import member as file_in_tar
from orchestrator.images.archive_images import (
    check_images,
    closing_members,
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
from orchestrator.images.registry import concurrent_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from orchestrator.engine.api import ImageInfo
    from orchestrator.engine.docker import Engine
    from orchestrator.images.archive_images import ArchivedImage
    from orchestrator.images.registry import Registries
    from orchestrator.settings import Settings

MEMBER: Final = "orchestrator/images.lock"
_END: Final = 1024  # bytes of zero with which a tar ends


def save_images(
    engine: Engine,
    images: Sequence[LockedImage],
    path: Path,
    *,
    settings: Settings,
    open_registries: Callable[[], Registries],
    report: Callable[[str], None],
) -> int:
    """Write images and their entries into one file, compressed as its name ends; return its size.

    The file appears when it is whole, never before. The registries are asked for the
    manifests of an image whose entry has no config digest, so that `load` has a proof of it;
    ``report`` takes a line about each image that there is no proof of.
    """
    pairs = [(image, _have(engine, image, settings)) for image in images]
    entries = {image.name: _with_config(image, info) for image, info in pairs}
    names = [  # an image whose tag is another one's is saved by its id
        image.reference.tagged if image.reference.familiar in info.tags else info.id
        for image, info in pairs
    ]
    proofs: Mapping[str, bytes] = {}
    if unproven := [(image, info) for image, info in pairs if not _named(info, image)]:
        proofs = _proofs(open_registries(), unproven, report=report)
    with _archive_file(path) as file, compressed(file, name=path.name) as out:
        out.write(file_in_tar(MEMBER, edited(NEW, path=path, images=entries.values()).encode()))
        for digest, document in proofs.items():
            out.write(file_in_tar(f"orchestrator/{digest.removeprefix('sha256:')}.json", document))
        end = b""
        for piece in engine.images.save(list(dict.fromkeys(names))):
            out.write(piece)
            end = (end + piece[-_END:])[-_END:]
        if end != bytes(_END):  # the daemon appends the error that kept it from saving all
            raise LockError(f"the daemon did not save all of it: {end.strip(bytes(1))[-300:]!r}")
    return path.stat().st_size


def _proofs(
    registries: Registries,
    unproven: Sequence[tuple[LockedImage, ImageInfo]],
    *,
    report: Callable[[str], None],
) -> dict[str, bytes]:
    """Ask the registries for the manifests that lead from each locked digest to its image."""

    def proof(pair: tuple[LockedImage, ImageInfo]) -> Mapping[str, bytes]:
        image, info = pair
        try:
            return registries.proof(image, info)
        except EngineError as error:
            report(
                f"{image.reference.familiar}: {error}. `load` will refuse it where images.lock "
                "knows it by this digest alone: `python -m orchestrator lock` notes more"
            )
            return {}

    return {digest: raw for one in concurrent_map(proof, unproven) for digest, raw in one.items()}


class Loaded(NamedTuple):
    """What an archive had: its entries as they are now; to those noted, digests were added."""

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
        LockError: An image is not the locked one or may not be used, the archive is damaged, or
            the lock file cannot be written.
        EngineError: The daemon failed.
    """
    contents, name = Contents(), str(path)
    entries: dict[str, LockedImage] = {}
    images: list[ArchivedImage] = []
    before: dict[str, ImageInfo | None] = {}

    def finish() -> Iterator[tuple[str, bytes]]:
        known = lock.entries
        if lock.is_default:  # nobody's decision: without a lock file the archive's own count
            archived = contents.documents.get(MEMBER, b"version = 1")
            known = parse_archived_lock(archived, path=path / MEMBER).entries
        images.extend(check_images(contents, known, name=name))
        entries.update({entry: known[entry] for image in images for entry in image.entries})
        check_allowed(entries.values(), settings=settings)
        tags = [entry.reference.tagged for entry in entries.values()]
        before.update(
            {name: engine.images.find(name) for name in (*tags, *(i.config for i in images))}
        )
        yield from closing_members(contents, images, entries)

    try:
        with open_archive(path) as source:
            for _ in engine.images.load(rewritten(source, contents, name=name, finish=finish)):
                pass
        now = [_entry_now(engine, entry, images) for entry in entries.values()]
        noted = [entry for entry in now if entry != entries[entry.name]]
        if noted and not lock.is_default:
            write_entries(lock, noted)
    except BaseException:
        _restore(engine, before)
        raise
    return Loaded(entries=now, noted=[entry.name for entry in noted])


def _entry_now(
    engine: Engine, entry: LockedImage, archived: Sequence[ArchivedImage]
) -> LockedImage:
    """Check that the daemon has an entry's image; add its digests where they lack."""
    info = engine.images.find(entry.reference.tagged)
    images = [image for image in archived if entry.name in image.entries]
    known = {image.config for image in images} | {i.manifest.digest for i in images if i.manifest}
    if info is None or info.id not in {entry.digest, *known}:
        raise DigestMismatchError(
            f"{entry.name}: the daemon loaded the archive, but has {info and info.id} "
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
        for image in images
    }
    return replace(entry, platforms={**entry.platforms, **noted})


def _restore(engine: Engine, before: Mapping[str, ImageInfo | None]) -> None:
    """Move every tag back to the image it named before, and remove images that are new."""
    for name, old in before.items():
        with contextlib.suppress(EngineError):  # the failure that led here is the one to tell
            now = engine.images.find(name)
            if old and (now is None or now.id != old.id):
                engine.images.tag(old.id, as_reference=name)
            elif now and not old and not before.get(now.id):
                engine.images.remove(name)


def _have(engine: Engine, image: LockedImage, settings: Settings) -> ImageInfo:
    presence = find_image(engine.images.find, image, settings=settings)
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
