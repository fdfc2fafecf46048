"""Files to and from the daemon, which takes and gives them as tars.

What is sent to build an image, what is put into containers, and what is read from them.
"""

from __future__ import annotations

import functools
import hashlib
import io
import posixpath
import re
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import quote

from orchestrator.engine.api import Copy, IgnoreMissing, short_name
from orchestrator.engine.docker_py import docker
from orchestrator.engine.streams import open_stream
from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.engine.client import ClientPool

_IN_MEMORY: Final = 8 << 20  # bytes; what is larger goes to disk
_IS_FOLDER: Final = 1 << 31  # in the modes of Go, as these
_IS_NO_FILE: Final = _IS_FOLDER | 1 << 27 | 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21 | 1 << 19
_KEEP_FOLDERS: Final = {"noOverwriteDirNonDir": "true"}
_ALWAYS_MOUNTED: Final = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
_MOST_LINKS: Final = 255  # on the way to a file, with the folders


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """A folder as a tar, to be closed, and 64 hex digits for its names, bytes and modes."""

    tar: IO[bytes]
    digest: str


def pack_context(folder: Path, *, dockerfile: str, replaced: Mapping[str, bytes]) -> BuildContext:
    """Pack a folder, with some files replaced, without what its ``.dockerignore`` leaves out.

    Times and owners are left out too, so that a fresh clone has the same digest. What cannot be
    read is an OSError.
    """
    ignore = folder / ".dockerignore"
    lines = ignore.read_text(encoding="utf-8").splitlines() if ignore.is_file() else []
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    names = docker.utils.build.exclude_paths(str(folder), patterns, dockerfile=dockerfile)
    tar = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - the caller closes it
    try:
        with tarfile.open(fileobj=tar, mode="w") as archive:
            for name in sorted(set(names) - {""}):
                _add(archive, folder, name, content=replaced.get(name))
        tar.seek(0)
        digest = hashlib.file_digest(tar, "sha256").hexdigest()
        tar.seek(0)
    except BaseException:
        tar.close()
        raise
    return BuildContext(tar=tar, digest=digest)


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


class Files:
    """The files of containers, as ``engine.files``; what one has in memory is not seen."""

    def __init__(self, pool: ClientPool) -> None:
        self._pool = pool

    def copy_into(
        self, container: str, copies: Sequence[Copy], /, *, links: Mapping[str, str] | None = None
    ) -> None:
        """Put files and folders into a created or running container, never a file over a folder.

        Folders on the way are made if need be. Links lead to their targets from a folder that all
        users may write to.
        """
        if not copies and not links:
            return
        read = functools.partial(self.get_file, container)
        for folder, its in self._by_volume(container, copies).items():
            in_it = links or {} if folder == "/" else {}
            if its or in_it:
                packed = _pack(its, in_it, folder=folder, read=read)
                self._unpack(container, packed, folder=folder)

    def _by_volume(self, container: str, copies: Sequence[Copy]) -> Mapping[str, Sequence[Copy]]:
        """What goes to the root, or to a volume, below which Podman would put it otherwise."""
        if not self._pool.is_podman:
            return {"/": copies}
        found: dict[str, list[Copy]] = {"/": []}
        with self._pool.client(f"inspect container {short_name(container)}") as client:
            mounts = client.inspect_container(container)["Mounts"] or ()
        volumes = [str(it["Destination"]) for it in mounts if it["Type"] == "volume"]
        for copy in copies:
            around = [path for path in volumes if f"{copy.path}/".startswith(f"{path}/")]
            found.setdefault(max(around, key=len, default="/"), []).append(copy)
        return found

    def mount_points(self, folder: str) -> Sequence[Copy]:
        """What must be in a folder that is read-only once the container runs.

        Podman mounts files of its own over these, and cannot make them by then; Docker can.
        """
        found = [path for path in _ALWAYS_MOUNTED if path.startswith(f"{folder.rstrip('/')}/")]
        return [Copy(path=path, source=b"") for path in found if self._pool.is_podman]

    def _unpack(self, container: str, tar: bytes, /, *, folder: str) -> None:
        """Unpack a tar in a folder; docker-py's `put_archive` would replace a folder by a file."""
        path, asked = f"/containers/{quote(container)}/archive", {"path": folder, **_KEEP_FOLDERS}
        with (
            self._pool.client(f"write files into container {short_name(container)}") as client,
            open_stream(client, "PUT", path, params=asked, data=tar),
        ):
            pass

    def get_file(self, container: str, path: str, /) -> bytes:
        """The content of a file of a container, which may have ended; links are followed.

        Where there is none it is an `EngineError` of status 404; of a folder or a device another.
        """
        with self._pool.client(f"read {path} in container {short_name(container)}") as client:
            real = _real_path(client, container, path)
            about = _stat(client, container, real)
            if about and about["mode"] & _IS_NO_FILE:
                kind = "a folder" if about["mode"] & _IS_FOLDER else "no regular file"
                raise EngineError(f"{path} in container {short_name(container)} is {kind}")
            pieces, _ = client.get_archive(container, real)
            with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
                spool.writelines(pieces)
                spool.seek(0)
                with tarfile.open(fileobj=spool) as archive:
                    file = archive.extractfile(archive.getmembers()[0])
                    return file.read() if file else b""

    def real_path(self, container: str, path: str, /) -> str:
        """A path without links on its way, as far as it exists."""
        with self._pool.client(f"find {path} in container {short_name(container)}") as client:
            return _real_path(client, container, path)


def _pack(
    copies: Sequence[Copy], links: Mapping[str, str], *, folder: str, read: Callable[[str], bytes]
) -> bytes:
    """Files and folders as a tar for a folder, links as links; devices, sockets, pipes stay out.

    ``links`` lead to their targets from a folder that all users may write to. ``read`` reads a file
    of the container, which knows the names of owners.
    """
    ids = {copy.owner: _ids(copy.owner, read) for copy in copies if copy.owner}
    buffer = io.BytesIO()
    now = int(time.time())

    def owned(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        member.uname = member.gname = ""  # the names are this machine's
        if copy.mode is not None:
            member.mode = copy.mode
        if copy.owner:
            member.uid, member.gid = ids[copy.owner]
        return None if member.isdev() else member

    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for copy in copies:
            name = posixpath.relpath(copy.path, folder)
            if isinstance(copy.source, bytes):
                member = tarfile.TarInfo(name)
                member.size, member.mtime = len(copy.source), now
                member.mode = 0o755 if copy.source.startswith(b"#!") else 0o644
                archive.addfile(owned(member) or member, io.BytesIO(copy.source))
                continue
            archive.dereference = not copy.source.is_dir()
            try:
                archive.add(copy.source, name, filter=owned)
            except OSError as error:
                raise EngineError(f"{error.filename} cannot be copied: {error.strerror}") from error
        for path, target in links.items():
            link = tarfile.TarInfo(path.lstrip("/"))
            link.type, link.linkname, link.mtime = tarfile.SYMTYPE, target, now
            around = tarfile.TarInfo(str(PurePosixPath(link.name).parent))
            around.type, around.mode, around.mtime = tarfile.DIRTYPE, 0o777, now
            archive.addfile(around)
            archive.addfile(link)
    return buffer.getvalue()


def _ids(owner: str, read: Callable[[str], bytes]) -> tuple[int, int]:
    """The numbers of a user and a group, whose names the container knows."""
    user, _, group = owner.partition(":")
    uid, own_group = _id(user, "/etc/passwd", read)
    return uid, _id(group, "/etc/group", read)[0] if group else own_group


def _id(name: str, table: str, read: Callable[[str], bytes]) -> tuple[int, int]:
    """The number of a name, and that of its own group; a number's own group is the same."""
    if name.isdecimal():
        return int(name), int(name)
    text = ""
    with IgnoreMissing():
        text = read(table).decode(errors="replace")
    row = re.search(rf"^{re.escape(name)}:[^:\n]*:(\d+)(?::(\d+)\b)?", text, re.MULTILINE)
    if row:
        return int(row[1]), int(row[2] or row[1])
    raise EngineError(
        f"No user or group of the container is called {name!r}: its {table} has no such line. "
        "Give its number instead."
    )


def _real_path(client: Any, container: str, path: str) -> str:
    """A path without links on its way, as far as it exists."""
    done, parts = PurePosixPath("/"), list(PurePosixPath(posixpath.normpath(path)).parts[1:])
    for _ in range(_MOST_LINKS):
        if not parts:
            break
        here = done / parts.pop(0)
        target = (_stat(client, container, str(here)) or {}).get("linkTarget")
        if not target or target == str(here):  # Podman names every path
            done = here
            continue
        parts = [*PurePosixPath(posixpath.normpath(done / target)).parts[1:], *parts]
        done = PurePosixPath("/")
    return str(done.joinpath(*parts))


def _stat(client: Any, container: str, path: str) -> Mapping[str, Any] | None:
    """What the daemon tells of a path in a container, or None when there is no such path."""
    url = f"{client.base_url}/v{client.api_version}/containers/{quote(container)}/archive"
    with client.request("HEAD", url, params={"path": path}, timeout=client.timeout) as told:
        about = told.headers.get("x-docker-container-path-stat")
        return docker.utils.decode_json_header(about) if told.ok and about else None
