"""Reading an archive of images once: every byte is hashed on its way to where it goes.

The consumer never gets the end of the archive before everything in front of it was verified, so a
daemon that reads along loads nothing from an archive that turns out to be wrong.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from orchestrator.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PIECE: Final = 1 << 20  # bytes
END: Final = bytes(1024)  # what ends a tar
_BLOCK: Final = 512
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
) -> Iterator[bytes]:
    """The bytes of a tar, each after it was looked at; its end only after `verify` agreed.

    Args:
        source: The tar, decompressed.
        contents: Takes what was found.
        name: The archive's name, for errors.
        on_member: Called after each member; may raise.
        verify: Called before the end is handed out; may raise.

    Raises:
        LockError: The archive is cut off or damaged.
    """
    tee = _Tee(source)
    try:
        with tarfile.open(fileobj=tee, mode="r|", bufsize=PIECE) as tar:  # type: ignore[call-overload]
            for member in tar:
                yield from _member(tar, member, tee, contents)
                on_member(member.name)
            yield from tee.take(until=tar.offset)
            tee.expect_end(tar.offset, name=name)
    except tarfile.TarError as error:
        raise LockError(f"{name} is cut off or damaged: {error}") from error
    verify()
    yield END


def _member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, tee: _Tee, contents: Contents
) -> Iterator[bytes]:
    if member.issym() or member.islnk():
        contents.links[member.name] = _target(member)
    file = tar.extractfile(member) if member.isreg() else None
    if file is None:
        yield from tee.take(until=member.offset_data)
        return
    digest, kept = hashlib.sha256(), bytearray()
    keep = member.size <= _LARGEST_DOCUMENT and _is_document(member.name)
    position = member.offset_data
    while piece := file.read(PIECE):
        digest.update(piece)
        position += len(piece)
        if keep:
            kept += piece
        yield from tee.take(until=position)
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
    """A file that remembers what was read from it until that is taken."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._pieces: deque[bytes] = deque()
        self._taken = 0

    def read(self, size: int) -> bytes:
        """Read exactly so many bytes, fewer only at the end."""
        piece = self._source.read(size)
        while piece and len(piece) < size and (more := self._source.read(size - len(piece))):
            piece += more
        if piece:
            self._pieces.append(piece)
        return piece

    def take(self, *, until: int) -> Iterator[bytes]:
        """What was read and not yet taken, up to an offset in the file."""
        while self._pieces and self._taken < until:
            piece = self._pieces.popleft()
            wanted = until - self._taken
            if len(piece) > wanted:
                self._pieces.appendleft(piece[wanted:])
                piece = piece[:wanted]
            self._taken += len(piece)
            yield piece

    def expect_end(self, offset: int, *, name: str) -> None:
        """Check that zeros stand at an offset; `tarfile` also stops, silently, at a damaged one.

        What follows is read too: a compressed archive is verified only at its end.
        """
        rest = b"".join(self._pieces)[offset - self._taken :][:_BLOCK]
        if rest != bytes(_BLOCK):
            raise LockError(f"{name} is cut off or damaged at byte {offset}")
        while self._source.read(PIECE):
            pass
