"""What a build is made from: a folder as a tar that is the same for the same content."""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import docker.utils.build

if TYPE_CHECKING:
    from collections.abc import Mapping

_IN_MEMORY: Final = 8 << 20  # bytes; a larger context goes to disk
_PIECE: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """A folder, ready to send.

    Attributes:
        tar: The folder as a tar, at its beginning; close it.
        digest: 64 hex digits that stand for the content: names, bytes, who may execute.
    """

    tar: IO[bytes]
    digest: str


def pack_context(folder: Path, *, dockerfile: str, replaced: Mapping[str, bytes]) -> BuildContext:
    """Pack a folder without what its ``.dockerignore`` leaves out.

    Times and owners are left out too, so that a fresh clone has the same digest.

    Args:
        folder: The folder.
        dockerfile: A file that is never left out.
        replaced: Files that are sent with another content.

    Raises:
        OSError: Something in it cannot be read.
    """
    ignore = folder / ".dockerignore"
    patterns = ignore.read_text(encoding="utf-8").splitlines() if ignore.is_file() else []
    names = docker.utils.build.exclude_paths(
        str(folder), [line.strip() for line in patterns if _counts(line)], dockerfile=dockerfile
    )
    tar: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - the caller closes it
    try:
        with tarfile.open(fileobj=tar, mode="w") as archive:
            for name in sorted(set(names) - {""}):
                _add(archive, folder, name, content=replaced.get(name))
        tar.seek(0)
        digest = hashlib.sha256()
        while piece := tar.read(_PIECE):
            digest.update(piece)
        tar.seek(0)
    except BaseException:
        tar.close()
        raise
    return BuildContext(tar=tar, digest=digest.hexdigest())


def _counts(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def _add(archive: tarfile.TarFile, folder: Path, name: str, *, content: bytes | None) -> None:
    member: tarfile.TarInfo | None = archive.gettarinfo(
        str(folder / name), arcname=Path(name).as_posix()
    )
    if member is None:
        return  # a socket: nothing that could be sent
    member.mtime = member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    if content is not None:
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    elif member.isreg():
        with (folder / name).open("rb") as file:
            archive.addfile(member, file)
    else:
        archive.addfile(member)
