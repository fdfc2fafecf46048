"""Reading an archive of images once: every byte is hashed on its way to where it goes.

The consumer never gets the end of the archive before everything in front of it was verified, so a
daemon that reads along loads nothing from an archive that turns out to be wrong.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from orchestrator.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PIECE: Final = 1 << 20  # bytes
END: Final = bytes(1024)  # what ends a tar
_BLOCK: Final = 512
_BEHIND: Final = 4  # pieces that wait for their hash
_LARGEST_DOCUMENT: Final = 4 << 20
_LARGEST_TOGETHER: Final = 32 << 20


class Readable(Protocol):
    """A stream of bytes to read."""

    def read(self, size: int = -1, /) -> bytes:
        """Read at most so many bytes; none at the end only."""


@dataclass(kw_only=True)
class Contents:
    """What is in an archive.

    Attributes:
        digests: Member to the digest of its bytes.
        documents: Members that are JSON or TOML and small enough to be kept.
        links: Member to the member it stands for; the classic store links layers it shares.
    """

    digests: dict[str, str] = field(default_factory=dict)
    documents: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def digest(self, name: str) -> str | None:
        """The digest of a member or of what it links to."""
        return self.digests.get(self.links.get(name, name))


def checked_stream(
    source: Readable,
    contents: Contents,
    *,
    name: str,
    on_member: Callable[[str], None],
    verify: Callable[[], None],
    layers: bool = True,
) -> Iterator[bytes]:
    """The bytes of a tar, each after it was looked at; its end only after `verify` agreed.

    Args:
        source: The tar, decompressed.
        contents: Takes what was found.
        name: The archive's name, for errors.
        on_member: Called after each member; may raise.
        verify: Called before the end is handed out; may raise.
        layers: Whether layers are hashed, and not only documents.

    Raises:
        LockError: The archive is cut off or damaged.
    """
    tee = _Tee(source)
    try:
        with (
            tarfile.open(fileobj=cast("Any", tee), mode="r:") as tar,
            ThreadPoolExecutor(1, thread_name_prefix="hash") as hasher,
        ):
            for member in tar:
                yield from _member(member, tee, contents, hasher if layers else None)
                on_member(member.name)
            yield from tee.end(tar.offset)
    except tarfile.TarError as error:
        raise LockError(f"{name} is cut off or damaged: {error}") from error
    verify()
    yield END


def _member(
    member: tarfile.TarInfo, tee: _Tee, contents: Contents, hasher: ThreadPoolExecutor | None
) -> Iterator[bytes]:
    """Pass a member on; a second thread hashes it, which lets go of Python's lock meanwhile."""
    yield from tee.taken()
    if member.issym() or member.islnk():
        contents.links[member.name] = _target(member)
    if not member.isreg():
        return
    keep = member.size <= _LARGEST_DOCUMENT and _is_document(member.name)
    if hasher is None and not keep:
        yield from tee.pass_on(member.size)
        return
    digest, kept = hashlib.sha256(), bytearray()
    behind: deque[Future[None]] = deque()
    for piece in tee.pass_on(member.size):
        if hasher is None:
            digest.update(piece)
        else:
            behind.append(hasher.submit(digest.update, piece))
            if len(behind) > _BEHIND:
                behind.popleft().result()
        if keep:
            kept += piece
        yield piece
    for update in behind:
        update.result()
    contents.digests[member.name] = f"sha256:{digest.hexdigest()}"
    if keep and sum(map(len, contents.documents.values())) + len(kept) <= _LARGEST_TOGETHER:
        contents.documents[member.name] = bytes(kept)


def _is_document(name: str) -> bool:
    return name.endswith((".json", ".lock")) or name.startswith("blobs/")


def _target(member: tarfile.TarInfo) -> str:
    """Where a link leads; `../ID/layer.tar`, seen from the folder of the link."""
    if member.islnk():
        return member.linkname
    parts: list[str] = member.name.split("/")[:-1]
    for part in member.linkname.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


class _Tee:
    """A stream as a file that `tarfile` reads headers from, while members pass by it.

    It remembers what `tarfile` read until that is taken. The only step back `tarfile` makes is by
    one byte, to see that the end of a member is there.
    """

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._read: list[bytes] = []
        self._offset = 0
        self._again = False

    def tell(self) -> int:
        """Where the next read begins."""
        return self._offset - self._again

    def seek(self, offset: int) -> None:
        """Go forward, or back by one byte."""
        self._again = offset == self._offset - 1
        if offset > self._offset:
            self.read(offset - self._offset)

    def read(self, size: int) -> bytes:
        """Read so many bytes, fewer only at the end, and remember them."""
        if self._again and size == 1:
            self._again = False
            return b"\0"  # what it was does not matter, only that it is there
        self._again = False
        pieces = list(self._exactly(size))
        self._read += pieces
        return b"".join(pieces)

    def taken(self) -> list[bytes]:
        """What was read since the last call."""
        pieces, self._read = self._read, []
        return pieces

    def pass_on(self, size: int) -> Iterator[bytes]:
        """So many bytes of a member, which `tarfile` does not see."""
        end = self._offset + size
        yield from self._exactly(size)
        if self._offset != end:
            raise tarfile.ReadError("unexpected end of data")

    def end(self, offset: int) -> list[bytes]:
        """What is left in front of the end, which is a block of zeros at this offset.

        `tarfile` also stops, silently, at a damaged or missing block. What follows the end is read
        too: a compressed archive is verified only there.
        """
        rest = b"".join(self.taken())
        if self._offset - offset != _BLOCK or rest[-_BLOCK:] != bytes(_BLOCK):
            raise tarfile.ReadError(f"no file and no end at byte {offset}")
        while self._source.read(PIECE):
            pass
        return [rest[:-_BLOCK]] if len(rest) > _BLOCK else []

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size and (piece := self._source.read(min(size, PIECE))):
            size -= len(piece)
            self._offset += len(piece)
            yield piece
