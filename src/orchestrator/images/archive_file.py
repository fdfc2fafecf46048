"""An archive of images as a file: a tar, plain or compressed, that is read once and written anew.

Nothing of an archive goes on as it stands there. Layers pass by, hashed, under names of our own;
small documents stay here, and what says which images there are is written behind the layers by
whoever checked all of it. So a name spelt in two ways, a link over a file or a foreign tag cannot
reach a daemon, whichever way that one reads a tar. Every size is bounded.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib
import posixpath
import re
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

from orchestrator.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

BLOBS: Final = "blobs/sha256/"  # where the OCI layout keeps what it names by digest
_PIECE: Final = 1 << 20  # bytes
_BLOCK: Final = tarfile.BLOCKSIZE
_END: Final = bytes(2 * _BLOCK)

_LARGEST_HEADERS: Final = 4 << 20  # bytes of all PAX and long-name headers; a usual one has 1 KiB
_LARGEST_DOCUMENT: Final = 4 << 20  # bytes; the distribution specification's limit
_LARGEST_TOGETHER: Final = 32 << 20  # bytes of all documents
_LONGEST_NAME: Final = 255
_MOST_MEMBERS: Final = 1 << 12  # an image has a few dozen
_LONGEST_TAIL: Final = 1 << 20  # bytes behind the end
# Images are mostly machine code, which shrinks to a third; what unpacks to so much more is a bomb.
_UNPACKED: Final = 100
_UNPACKED_ALWAYS: Final = 1 << 30  # bytes

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_USTAR: Final = slice(257, 262)  # where a tar's first header says what it is
_GZIP_LEVEL: Final = 3  # level 6 takes twice as long for a twentieth less
_OTHERS: Final = (".zip", ".7z", ".xz", ".txz", ".bz2", ".tbz2", ".tbz", ".lz4", ".br")
_FILES: Final = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_EXTENSIONS: Final = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_SIZE: Final = re.compile(rb"(?:^|\n)\d{1,3} size=(\d{1,19})\n")
_BLOB: Final = re.compile(rf"{BLOBS}[0-9a-f]{{64}}")


class Readable(Protocol):
    """A stream of bytes to read."""

    def read(self, size: int = -1, /) -> bytes:
        """Read at most so many bytes; none at the end only."""


class Writable(Protocol):
    """A stream of bytes to write."""

    def write(self, piece: bytes, /) -> int:
        """Write all of it."""


@dataclass(kw_only=True)
class Contents:
    """What was found in an archive, by the normalised names of its members.

    Attributes:
        digests: Member to the digest of its bytes.
        documents: Members that are JSON or TOML, whole; the others have gone on.
        places: Member that has gone on to the name it has there.
        links: Member to the member it stands for; the classic store links layers it shares.
    """

    digests: dict[str, str] = field(default_factory=dict)
    documents: dict[str, bytes] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def member(self, name: str) -> str | None:
        """The member of this name, or the one that it links to directly; None without one."""
        name = posixpath.normpath(name)
        name = self.links.get(name, name)
        return name if name in self.digests else None


def rewritten(
    source: Readable,
    contents: Contents,
    *,
    name: str,
    finish: Callable[[], Iterable[tuple[str, bytes]]],
) -> Iterator[bytes]:
    """Rewrite an archive as a tar of its layers, followed by the members that `finish` returns.

    Whoever reads it gets the end only when `finish` has agreed, so that a daemon loads nothing
    from an archive that turns out to be wrong. ``contents`` takes what was found.

    Raises:
        LockError: The archive is cut off, damaged, or not one of images.
    """
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="hash") as hasher:
            for found, pieces in _members(source):
                if found.isreg():
                    yield from _file(found, pieces, contents, hasher)
                else:
                    contents.links[found.name] = found.linkname
    except tarfile.TarError as error:
        raise LockError(f"{name} is cut off or damaged: {error}") from error
    for path, digest in contents.digests.items():
        if _BLOB.fullmatch(path) and digest != f"sha256:{path.removeprefix(BLOBS)}":
            raise LockError(f"{name} is damaged: {path} is {digest}")
    for path, content in finish():
        yield member(path, content)
    yield _END


def member(path: str, content: bytes) -> bytes:
    """One file as bytes of a tar, without the end-of-archive marker."""
    return _header(path, len(content)) + content + bytes(-len(content) % _BLOCK)


def _header(path: str, size: int) -> bytes:
    about = tarfile.TarInfo(path)
    about.size = size
    about.mode = 0o644
    return about.tobuf(tarfile.GNU_FORMAT)  # USTAR ends at 8 GiB


def _file(
    found: tarfile.TarInfo, pieces: Iterator[bytes], contents: Contents, hasher: ThreadPoolExecutor
) -> Iterator[bytes]:
    """Keep a document in memory; pass on anything else, large files hashed by a second thread."""
    named = found.name.endswith((".json", ".lock"))
    place = found.name if _BLOB.fullmatch(found.name) else f"{len(contents.places)}/layer.tar"
    digest = hashlib.sha256()
    if found.size <= _LARGEST_DOCUMENT:
        content = b"".join(pieces)
        digest.update(content)
        if named or content.startswith(b"{"):
            contents.documents[found.name] = content
            if sum(map(len, contents.documents.values())) > _LARGEST_TOGETHER:
                raise tarfile.ReadError(
                    f"its documents are more than {_LARGEST_TOGETHER >> 20} MiB"
                )
        else:
            contents.places[found.name] = place
            yield member(place, content)
    elif named:
        raise tarfile.ReadError(f"{found.name} is larger than {_LARGEST_DOCUMENT >> 20} MiB")
    else:
        contents.places[found.name] = place
        yield _header(place, found.size)
        hashed: Future[None] | None = None
        for piece in pieces:
            if hashed:
                hashed.result()
            hashed = hasher.submit(digest.update, piece)  # hashing lets go of Python's lock
            yield piece
        yield bytes(-found.size % _BLOCK)
        if hashed:
            hashed.result()
    contents.digests[found.name] = f"sha256:{digest.hexdigest()}"


def _members(source: Readable) -> Iterator[tuple[tarfile.TarInfo, Iterator[bytes]]]:
    """Each file and link, its name normalised, with its bytes; read them before the next.

    `tarfile` would take headers of any size, and end without a word at a damaged one.
    """
    names: set[str] = set()
    for count, member in enumerate(_headers(source)):
        if count >= _MOST_MEMBERS:
            raise tarfile.ReadError(f"it has more than {_MOST_MEMBERS} files")
        member.name = _normalised(member.name)
        if member.isdir():
            continue
        if member.issym():
            member.linkname = posixpath.join(posixpath.dirname(member.name), member.linkname)
        if member.islnk() or member.issym():
            member.linkname = _normalised(member.linkname)
        elif member.type not in _FILES:
            raise tarfile.ReadError(f"{member.name!r} is neither a file nor a link")
        if member.name in names:
            raise tarfile.ReadError(f"{member.name!r} is in it twice")
        names.add(member.name)
        size = member.size if member.isreg() else 0
        yield member, _exactly(source, size)
        b"".join(_exactly(source, -size % _BLOCK))
    tail = 0
    while piece := source.read(_PIECE):  # a compressed archive is whole only when this ends well
        tail += len(piece)
        if tail > _LONGEST_TAIL:
            raise tarfile.ReadError("something follows its end")


def _normalised(name: str) -> str:
    """Normalise a member's name, so that no two spellings of it pass for two files."""
    path = posixpath.normpath(name)
    if path.startswith(("/", "../")) or path == ".." or len(path) > _LONGEST_NAME:
        raise tarfile.ReadError(f"{name[:_LONGEST_NAME]!r} is no name of a file in an archive")
    return path


def _headers(source: Readable) -> Iterator[tarfile.TarInfo]:
    """The header of each member, in which a PAX header's size counts, for layers over 8 GiB.

    No archive of images has longer names than a plain header. What else extensions say is passed
    over: no name of the archive goes on, and bytes count by their digest.
    """
    left, size = _LARGEST_HEADERS, None
    while (block := b"".join(_exactly(source, _BLOCK))) != bytes(_BLOCK):
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if member.size < 0:
            raise tarfile.ReadError("a size below zero")
        if member.type in _EXTENSIONS:
            left -= member.size + _BLOCK
            if left < 0:
                raise tarfile.ReadError(f"its headers are larger than {_LARGEST_HEADERS >> 20} MiB")
            text = b"".join(_exactly(source, member.size))
            b"".join(_exactly(source, -member.size % _BLOCK))
            if member.type == tarfile.XHDTYPE and (found := _SIZE.search(text)):
                size = int(found[1])
            continue
        member.size, size = member.size if size is None else size, None
        yield member


def _exactly(source: Readable, size: int) -> Iterator[bytes]:
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

    def __init__(self, stream: Readable, *, path: Path, damage: type[Exception]) -> None:
        self._stream = stream
        self._path = path
        self._damage = damage
        self._left = _UNPACKED_ALWAYS + _UNPACKED * path.stat().st_size

    def read(self, size: int = -1, /) -> bytes:
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
def open_archive(path: Path) -> Iterator[Readable]:
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
        stream: Readable = file
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
def compressed(file: IO[bytes], *, name: str) -> Iterator[Writable]:
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
