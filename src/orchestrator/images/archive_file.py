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
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

from orchestrator.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

BLOBS: Final = "blobs/sha256/"  # where the OCI layout keeps what it names by digest
_PIECE: Final = 1 << 20  # bytes
_BLOCK: Final = tarfile.BLOCKSIZE
_END: Final = bytes(2 * _BLOCK)
_BEHIND: Final = 4  # pieces that wait for their hash

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
_FOREIGN: Final = {  # what other formats begin with
    "compressed with xz": b"\xfd7zXZ\0",
    "compressed with bzip2": b"BZh",
    "compressed with lz4": b"\x04\x22\x4d\x18",
    "a zip file": b"PK\x03\x04",
    "a 7z file": b"7z\xbc\xaf\x27\x1c",
}
_LONGEST_MAGIC: Final = 8
_GZIP_LEVEL: Final = 3  # level 6 takes twice as long for a twentieth less
_OTHERS: Final = (".zip", ".7z", ".xz", ".txz", ".bz2", ".tbz2", ".tbz", ".lz4", ".br")
_FILES: Final = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
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
        digests: Member to the digest of its bytes; only documents' when layers are not hashed.
        documents: Members that are JSON or TOML, whole; the others have gone on.
        places: Member that has gone on to the name it has there.
        links: Member to the member it stands for; the classic store links layers it shares.
        kept: Bytes of all documents.
    """

    digests: dict[str, str] = field(default_factory=dict)
    documents: dict[str, bytes] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    kept: int = 0

    def member(self, name: str) -> str | None:
        """The member of this name, or the one that it links to directly; None without one."""
        name = posixpath.normpath(name)
        name = self.links.get(name, name)
        return name if name in self.documents or name in self.places else None

    def digest(self, member: str) -> str | None:
        """A member's digest; the one in a blob's name where layers are not hashed."""
        named = f"sha256:{member.removeprefix(BLOBS)}" if _BLOB.fullmatch(member) else None
        return self.digests.get(member, named)


def rewritten(
    source: Readable,
    contents: Contents,
    *,
    name: str,
    on_document: Callable[[str, bytes], None],
    finish: Callable[[], Iterable[tuple[str, bytes]]],
    layers: bool = True,
) -> Iterator[bytes]:
    """Rewrite an archive as a tar of its layers, followed by the members that `finish` returns.

    Whoever reads it gets the end only when `finish` has agreed, so that a daemon loads nothing
    from an archive that turns out to be wrong.

    Args:
        source: The tar, decompressed.
        contents: Takes what was found.
        name: The archive's name, for errors.
        on_document: Called after each document; may raise.
        finish: Called when all was read; gives the names and contents of the last members.
        layers: Whether layers are hashed, and not only documents.

    Raises:
        LockError: The archive is cut off, damaged, or not one of images.
    """
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="hash") as hasher:
            for found, pieces in _members(source):
                if found.isreg():
                    yield from _file(found, pieces, contents, hasher if layers else None)
                    if found.name in contents.documents:
                        on_document(found.name, contents.documents[found.name])
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
    found: tarfile.TarInfo,
    pieces: Iterator[bytes],
    contents: Contents,
    hasher: ThreadPoolExecutor | None,
) -> Iterator[bytes]:
    """Keep a document in memory; pass on anything else, large files hashed by a second thread."""
    named = found.name.endswith((".json", ".lock"))
    place = found.name if _BLOB.fullmatch(found.name) else f"{len(contents.places)}/layer.tar"
    digest = hashlib.sha256()
    if found.size <= _LARGEST_DOCUMENT:
        content = b"".join(pieces)
        digest.update(content)
        if named or content.startswith(b"{"):
            contents.kept += len(content)
            if contents.kept > _LARGEST_TOGETHER:
                raise tarfile.ReadError(
                    f"its documents are more than {_LARGEST_TOGETHER >> 20} MiB"
                )
            contents.documents[found.name] = content
            contents.digests[found.name] = f"sha256:{digest.hexdigest()}"
            return
        yield member(place, content)
    elif named:
        raise tarfile.ReadError(f"{found.name} is larger than {_LARGEST_DOCUMENT >> 20} MiB")
    else:
        yield _header(place, found.size)
        behind: deque[Future[None]] = deque()
        for piece in pieces:
            if hasher is not None:  # hashing lets go of Python's lock
                behind.append(hasher.submit(digest.update, piece))
                if len(behind) > _BEHIND:
                    behind.popleft().result()
            yield piece
        yield bytes(-found.size % _BLOCK)
        for update in behind:
            update.result()
    contents.places[found.name] = place
    if hasher is not None:
        contents.digests[found.name] = f"sha256:{digest.hexdigest()}"


def _members(source: Readable) -> Iterator[tuple[tarfile.TarInfo, Iterator[bytes]]]:
    """Each file and link, its name normalised, with its bytes; read them before the next.

    `tarfile` would take headers of any size, and end without a word at a damaged one.
    """
    names: set[str] = set()
    headers = _Headers(source)
    for count, member in enumerate(iter(headers.next, None)):
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


class _Headers:
    """The headers of a tar, one after the other, bounded together."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._left = _LARGEST_HEADERS

    def next(self) -> tarfile.TarInfo | None:
        """The next member's header, with its long-name extensions applied; None at the end."""
        names: dict[str, str] = {}
        while True:
            block = b"".join(_exactly(self._source, _BLOCK))
            if block == bytes(_BLOCK) and not names:
                return None
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            if member.size < 0:
                raise tarfile.ReadError("a size below zero")
            if member.type not in _EXTENSIONS:
                return _named(member, names)
            self._left -= member.size + _BLOCK
            if self._left < 0:
                raise tarfile.ReadError(f"its headers are larger than {_LARGEST_HEADERS >> 20} MiB")
            text = b"".join(_exactly(self._source, member.size))
            b"".join(_exactly(self._source, -member.size % _BLOCK))
            if key := _EXTENSIONS[member.type]:
                names[key] = _text(text.partition(b"\0")[0])
            elif member.type == tarfile.XHDTYPE:
                names |= _records(text)


def _named(member: tarfile.TarInfo, names: Mapping[str, str]) -> tarfile.TarInfo:
    """Apply what extension headers say about the member that follows them."""
    member.name = names.get("path", member.name)
    member.linkname = names.get("linkpath", member.linkname)
    if size := names.get("size"):
        if not (size.isascii() and size.isdecimal() and len(size) <= len(str(1 << 63))):
            raise tarfile.ReadError(f"{size[:20]!r} is no size")
        member.size = int(size)
    if any(key.startswith("GNU.sparse") for key in names):
        raise tarfile.ReadError(f"{member.name[:_LONGEST_NAME]!r} has holes")
    return member


# What a header speaks of when it is about the one that follows. A global one counts for nobody.
_EXTENSIONS: Final = {
    tarfile.GNUTYPE_LONGNAME: "path",
    tarfile.GNUTYPE_LONGLINK: "linkpath",
    tarfile.XHDTYPE: "",
    tarfile.XGLTYPE: "",
}


_KEYS: Final = (b"path", b"linkpath", b"size")


def _records(text: bytes) -> dict[str, str]:
    """What counts of a PAX header: pairs, each written as `LENGTH KEY=VALUE` and a newline."""
    found = {}
    begin = 0
    while begin < len(text):
        digits = text[begin : begin + 8].partition(b" ")[0]
        end = begin + (int(digits) if digits.isdigit() else 0)
        key, equals, value = text[begin + len(digits) + 1 : end - 1].partition(b"=")
        if not equals or end > len(text) or text[end - 1 : end] != b"\n":
            raise tarfile.ReadError("a header that cannot be read")
        if key in _KEYS or key.startswith(b"GNU.sparse"):
            found[_text(key)] = _text(value)
        begin = end
    return found


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


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
    """Read an archive, decompressed as its first bytes say.

    Raises:
        LockError: It cannot be read, or is cut off or damaged; so does reading what is returned.
    """
    if path.is_fifo():
        raise LockError(f"{path} cannot be read: it is not a file")
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            magic = file.read(_LONGEST_MAGIC)
            file.seek(0)
        except OSError as error:
            raise _unreadable(path, error) from error
        if not magic:
            raise LockError(f"{path} is empty")
        for kind, beginning in _FOREIGN.items():
            if magic.startswith(beginning):
                raise LockError(f"{path} is {kind}; an archive is a .tar, .tar.gz or .tar.zst")
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
    """Write to a file, compressed by the ending of its name: .gz, .tgz, .zst, .tzst, or not.

    Raises:
        LockError: The ending promises what is not written here, or nothing here can compress with
            zstandard.
    """
    if name.endswith(_OTHERS):
        raise LockError(f"{name}: an archive is a .tar, .tar.gz or .tar.zst, by the name's ending")
    if name.endswith((".gz", ".tgz")):
        with gzip.GzipFile(
            filename="", fileobj=file, mode="wb", compresslevel=_GZIP_LEVEL
        ) as stream:
            yield stream
    elif name.endswith((".zst", ".tzst")):
        zstd = _zstd(name)
        workers = zstd.CompressionParameter.nb_workers
        options = {
            zstd.CompressionParameter.checksum_flag: 1,
            workers: min(1, workers.bounds()[1]),  # compresses while the daemon is read
        }
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
