"""The locked images as one file, for CI caches and for machines that reach no registry.

An archive is what ``docker save`` writes. Before a daemon gets one, it is read to its end: that it
is whole, and lists only images that the lock names by a digest, under their own tags. The daemon
itself checks each layer against its image's config, and is asked afterwards what it has; where that
is not what is locked, every tag is put back.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib
import json
import posixpath
import re
import tarfile
import zlib
from typing import IO, TYPE_CHECKING, Any, Final

from orchestrator.errors import (
    DigestMismatchError,
    EngineError,
    EngineUnavailableError,
    InvalidReferenceError,
    LockError,
)
from orchestrator.files import replacing
from orchestrator.images.lockfile import LockedImage, LockFile, check_allowed
from orchestrator.images.presence import find_image, is_locked, mismatch
from orchestrator.images.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from orchestrator.engine.api import ImageInfo
    from orchestrator.engine.docker import Engine
    from orchestrator.settings import Settings

_END: Final = 1024  # bytes of zero with which a tar ends
_PIECE: Final = 1 << 20  # bytes
_BLOCK: Final = tarfile.BLOCKSIZE
_LARGEST_DOCUMENT: Final = 4 << 20  # bytes; the distribution specification's limit
_LARGEST_HEADER: Final = 1 << 20  # bytes; a usual one has 1 KiB
_MOST_MEMBERS: Final = 1 << 12  # an image has a few dozen
# Images are mostly machine code, which shrinks to a third; what unpacks to so much more is a bomb.
_UNPACKED: Final = 100
_UNPACKED_ALWAYS: Final = 1 << 30  # bytes
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_USTAR: Final = slice(257, 262)  # where a tar's first header says what it is
_GZIP_LEVEL: Final = 3  # level 6 takes twice as long for a twentieth less
_OTHERS: Final = (".zip", ".7z", ".xz", ".txz", ".bz2", ".tbz2", ".tbz", ".lz4", ".br")
_FILES: Final = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_RENAMES: Final = (b"path", b"linkpath", b"GNU.")
_DIGITS: Final = 18  # of a number that the daemon can read
# Docker's stores before version 25, and Podman, link layers that are in the archive already.
_LAYER: Final = re.compile(r"[0-9a-f]{64}/layer\.tar")
_LAYER_TARGET: Final = re.compile(r"\.\./[0-9a-f]{64}(/layer)?\.tar")
_CONTAINERD_NAMES: Final = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


def save_images(
    engine: Engine, images: Sequence[LockedImage], path: Path, *, settings: Settings
) -> int:
    """Write images into one file, compressed as its name ends; return its size.

    The file appears when it is whole, never before. It is a `LockError` when an image is not here,
    the lock has no digest of it that survives, or the file cannot be written.
    """
    names = []
    for image in images:
        info = _have(engine, image, settings)
        # an image whose tag is another one's is saved by its id
        tagged = image.reference.familiar in info.tags
        names.append(image.reference.tagged if tagged else info.id)
    with _archive_file(path) as file, _compressed(file, name=path.name) as out:
        end = b""
        for piece in engine.images.save(list(dict.fromkeys(names))):
            out.write(piece)
            end = (end + piece[-_END:])[-_END:]
        if end != bytes(_END):  # the daemon appends the error that kept it from saving all
            raise LockError(f"the daemon did not save all of it: {end.strip(bytes(1))[-300:]!r}")
    return path.stat().st_size


def _have(engine: Engine, image: LockedImage, settings: Settings) -> ImageInfo:
    """The image here, which its entry names by something that it keeps over save and load."""
    presence = find_image(engine.images.find, image, settings=settings)
    name = image.reference.familiar
    if presence.info is None:
        if presence.other:
            raise mismatch(image, presence.other)
        raise LockError(f"{name} is not on this machine. Run: python -m orchestrator pull")
    if image.digest and presence.info.id not in image.digests:
        raise LockError(
            f"{image.name}: images.lock knows {name} by the registry's digest alone, which an "
            "archive does not have. Note the digests of its platforms, then save again: "
            "python -m orchestrator lock"
        )
    return presence.info


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


def load_images(
    engine: Engine, path: Path, lock: LockFile, *, settings: Settings
) -> Sequence[LockedImage]:
    """Load an archive whose images are those of the lock; return the entries it has.

    It is a `LockError` when the archive is damaged, or an image is not a locked one or may not be
    used; a `DigestMismatchError` when the daemon then has something else, which is undone.
    """
    with _open_archive(path) as source:
        listed = _listed(source, name=str(path))
    entries = _entries(listed, lock, name=str(path))
    check_allowed((entry for _, entry in entries), settings=settings)
    tags, configs = (entry.reference.tagged for _, entry in entries), (it for it, _ in entries)
    before = {name: engine.images.find(name) for name in dict.fromkeys((*tags, *configs))}
    try:
        with _open_archive(path) as source:
            for _ in engine.images.load(iter(lambda: source.read(_PIECE), b"")):
                pass
        for config, entry in entries:
            _check_loaded(engine, entry, config)
    except BaseException as error:
        _restore(engine, before)
        if isinstance(error, EngineError) and not isinstance(error, EngineUnavailableError):
            error.args = (f"{path}: {error}; nothing of it was kept",)
        raise
    return [entry for _, entry in entries]


def _check_loaded(engine: Engine, entry: LockedImage, config: str) -> None:
    """Check that the daemon has the locked bytes; give them their tag, if the archive did not."""
    tagged, images = entry.reference.tagged, engine.images
    info = images.find(config)
    if info is not None and entry.reference.familiar not in info.tags and is_locked(info, entry):
        images.tag(info.id, as_reference=tagged)
    info = images.find(tagged)
    if info is None or not is_locked(info, entry):
        raise DigestMismatchError(
            f"{entry.name}: the daemon loaded the archive, but has {info and info.id} as "
            f"{entry.reference.familiar}, not {entry.digest}; that was put back. Either "
            "images.lock has not the digests of this platform (python -m orchestrator lock), or "
            "the archive is of Docker's other store, where images are known by other digests "
            "(python -m orchestrator pull)"
        )


def _restore(engine: Engine, before: Mapping[str, ImageInfo | None]) -> None:
    """Move every tag back to the image it named before, and remove images that are new."""
    for name, old in before.items():
        with contextlib.suppress(EngineError):  # the failure that led here is the one to tell
            now = engine.images.find(name)
            if old and (now is None or now.id != old.id):
                engine.images.tag(old.id, as_reference=name)
            elif now and not old and not before.get(now.id):
                engine.images.remove(name)


class _Listed:
    """An image of an archive: the digest of its config, its tags, and the digests they lead to."""

    def __init__(self, config: str, tags: set[str], named: Mapping[str, str]) -> None:
        self.config = config
        self.tags = tags
        self.digests = {config, *(named[tag] for tag in tags if tag in named)}


def _entries(
    listed: Sequence[_Listed], lock: LockFile, *, name: str
) -> Sequence[tuple[str, LockedImage]]:
    """The entries that lock the images, each with the digest of its image's config."""
    found = {}
    for image in listed:
        its = [e for e in lock.entries.values() if not image.digests.isdisjoint(e.digests)]
        if not its or image.tags - {entry.reference.tagged for entry in its}:
            raise _refusal(image, lock, name=name)
        found.update({entry.name: (image.config, entry) for entry in its})
    return [*found.values()]


def _refusal(image: _Listed, lock: LockFile, *, name: str) -> DigestMismatchError:
    called = f"{', '.join(sorted(image.tags)):.200}" or "an image without tag"
    entry = next((e for e in lock.entries.values() if e.reference.tagged in image.tags), None)
    wanted = f", but {entry.digest} as entry {entry.name}" if entry else ""
    text = (
        f"{name} holds {called} ({image.config}), which images.lock does not lock{wanted}. Save it "
        "again with the present one: python -m orchestrator save FILE"
    )
    if entry and not entry.platforms:
        text += (
            f"; or, as images.lock knows {entry.reference.familiar} by the registry's digest "
            "alone, note the digests of its platforms: python -m orchestrator lock"
        )
    return DigestMismatchError(f"{text}; nothing was loaded")


def _listed(source: _Source, *, name: str) -> Sequence[_Listed]:
    """The images of an archive, which is read to its end."""
    digests: dict[str, str] = {}
    documents: dict[str, Any] = {}
    try:
        for member, content in _members(source):
            digests[member] = f"sha256:{hashlib.sha256(content).hexdigest()}"
            if member in ("manifest.json", "index.json"):
                documents[member] = json.loads(content, object_pairs_hook=_as_go_reads_it)
    except (tarfile.TarError, ValueError, RecursionError) as error:
        raise LockError(f"{name} is cut off or damaged: {error}") from error
    found = []
    try:
        named = _named_by_layout(documents.get("index.json"))
        for item in documents["manifest.json"]:
            config = digests[posixpath.normpath(item["config"])]
            tags = {parse_reference(tag).tagged for tag in item.get("repotags") or ()}
            found.append(_Listed(config, tags, named))
    except (LookupError, TypeError, AttributeError, InvalidReferenceError) as error:
        raise LockError(
            f"{name} is no whole archive of images: manifest.json is missing, or says what is not "
            f"so: {error!r:.200}"
        ) from error
    if foreign := named.keys() - {tag for image in found for tag in image.tags}:
        raise LockError(
            f"{name} is damaged: manifest.json and index.json disagree: {min(foreign):.200}"
        )
    return found


def _as_go_reads_it(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON by its keys in small letters: the daemon takes them in any case."""
    found = {key.casefold(): value for key, value in pairs}
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _named_by_layout(index: Any) -> Mapping[str, str]:
    """The digests by their tags, as containerd's store reads an archive: by its OCI layout."""
    named: dict[str, str] = {}
    for listed in index["manifests"] if index else ():
        notes = listed.get("annotations") or {}
        if name := next(filter(None, map(notes.get, _CONTAINERD_NAMES)), None):
            named[parse_reference(name).tagged] = str(listed["digest"])
    return named


def _members(source: _Source) -> Iterator[tuple[str, bytes]]:
    """Each file of a tar, by its normalised name; the content of large ones is passed over.

    Refused is all with which two readers of a tar might see two things: a file that is there twice,
    however spelt, links but for layers, names in headers of their own, whatever is no file.
    """
    names: set[str] = set()
    for member in _headers(source):
        name, is_file = posixpath.normpath(member.name), member.type in _FILES
        is_layer = _LAYER.fullmatch(name) and _LAYER_TARGET.fullmatch(member.linkname)
        if not (is_file or member.isdir() or (member.issym() and is_layer)):
            raise tarfile.ReadError(f"{name!r:.200} is neither a file nor a layer")
        if name.startswith(("/", "..")) or name in names or len(names) > _MOST_MEMBERS:
            raise tarfile.ReadError(f"{name!r:.200} leads out of it, is in it twice, or too much")
        names.add(name)
        if is_file:
            small = member.size <= _LARGEST_DOCUMENT
            yield name, b"".join(it if small else b"" for it in _exactly(source, member.size))
            b"".join(_exactly(source, -member.size % _BLOCK))
    while piece := source.read(_PIECE):  # a compressed archive is whole only when this ends well
        if piece.strip(b"\0"):
            raise tarfile.ReadError("something follows its end")


def _headers(source: _Source) -> Iterator[tarfile.TarInfo]:
    """The header of each member; `tarfile` takes them of any size, and ends at a damaged one."""
    size = None
    while (block := b"".join(_exactly(source, _BLOCK))) != bytes(_BLOCK):
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if member.size < 0:
            raise tarfile.ReadError("a size below zero")
        if member.type == tarfile.XHDTYPE and member.size <= _LARGEST_HEADER:
            size = _size_in(b"".join(_exactly(source, member.size)))
            b"".join(_exactly(source, -member.size % _BLOCK))
            continue
        member.size, size = member.size if size is None else size, None
        yield member


def _size_in(header: bytes) -> int | None:
    """The size that a header in records (pax(1)) gives, as of a layer over 8 GiB.

    They are read by their lengths, as the daemon does: a value may hold what looks like another.
    """
    records: dict[bytes, bytes] = {}
    while header:
        length = header.partition(b" ")[0]
        end = int(length) if length.isdigit() and len(length) <= _DIGITS else 0
        key, _, value = header[len(length) + 1 : end - 1].partition(b"=")
        if not key or key in records or header[end - 1 : end] != b"\n" or key.startswith(_RENAMES):
            raise tarfile.ReadError("a header that names files, or cannot be read in one way")
        records[key], header = value, header[end:]
    size = records.get(b"size", b"0")
    if not size.isdigit() or len(size) > _DIGITS:
        raise tarfile.ReadError("a size that is no number")
    return int(size) if b"size" in records else None


def _exactly(source: _Source, size: int) -> Iterator[bytes]:
    while size:
        piece = source.read(min(size, _PIECE))
        if not piece:
            raise tarfile.ReadError("unexpected end of data")
        size -= len(piece)
        yield piece


class _Source:
    """An archive's stream. It fails with a LockError only, and at an absurd size.

    Whoever reads it sends it to a daemon, where any other error would be one of the connection.
    """

    def __init__(self, stream: Any, *, path: Path, damage: type[Exception]) -> None:
        self._stream: IO[bytes] = stream
        self._path = path
        self._damage = damage
        self._left = _UNPACKED_ALWAYS + _UNPACKED * path.stat().st_size

    def read(self, size: int) -> bytes:
        try:
            piece = self._stream.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error, self._damage) as error:
            raise LockError(f"{self._path} is cut off or damaged: {error}") from error
        except OSError as error:
            raise _unreadable(self._path, error) from error
        self._left -= len(piece)
        if self._left < 0:
            raise LockError(
                f"{self._path} unpacks to more than {_UNPACKED} times its size: no archive of "
                "images does"
            )
        return piece


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[_Source]:
    """Read an archive, decompressed as its first bytes say."""
    if path.is_fifo():
        raise LockError(f"{path} cannot be read: it is not a file")
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            magic = file.read(_BLOCK)
            file.seek(0)
        except OSError as error:
            raise _unreadable(path, error) from error
        if not magic:
            raise LockError(f"{path} is empty")
        if not magic.startswith((_GZIP, _ZSTD)) and magic[_USTAR] != b"ustar":
            raise LockError(f"{path} is cut off, damaged or not a .tar, .tar.gz or .tar.zst")
        stream: Any = file
        damage: type[Exception] = EOFError
        if magic.startswith(_GZIP):
            stream = stack.enter_context(gzip.GzipFile(fileobj=file))
        elif magic.startswith(_ZSTD):
            zstd = _zstd(path)
            stream, damage = stack.enter_context(zstd.open(file)), zstd.ZstdError
        yield _Source(stream, path=path, damage=damage)


def _unreadable(path: Path, error: OSError) -> LockError:
    return LockError(f"{path} cannot be read: {error.strerror or error}")


@contextlib.contextmanager
def _compressed(file: IO[bytes], *, name: str) -> Iterator[Any]:
    """Write to a file, compressed by the ending of its name: .gz, .tgz, .zst, .tzst, or not."""
    if name.endswith(_OTHERS):
        raise LockError(f"{name}: an archive is a .tar, .tar.gz or .tar.zst, by the name's ending")
    if name.endswith((".gz", ".tgz")):
        with gzip.GzipFile(
            filename="", fileobj=file, mode="wb", compresslevel=_GZIP_LEVEL
        ) as stream:
            yield stream
    elif name.endswith((".zst", ".tzst")):
        zstd = _zstd(name)
        options = {zstd.CompressionParameter.checksum_flag: 1}
        with zstd.open(file, "wb", options=options) as stream:
            yield stream
    else:
        yield file


def _zstd(name: object) -> Any:
    """The standard library's zstd module from Python 3.14 on, else backports.zstd."""
    for module in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(module)
    raise LockError(
        f"{name} needs zstandard, which Python has from 3.14 on. Install it: "
        "pip install 'unittest-orchestrator[zstd]', or use .tar.gz"
    )
