"""Files in a service's container: as they are declared, and while it runs."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.errors import DeclarationError, EngineError, ServiceError
from orchestrator.services import options

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from orchestrator.engine.api import Copy
    from orchestrator.services.hooks import Runtime

_OWNER: Final = re.compile(r"[\w.-]+\$?(:[\w.-]+\$?)?")
_MODES: Final = 0o6777  # without the sticky bit, which 600 for 0o600 and 755 for 0o755 would have
_ALWAYS_MOUNTED: Final = ("/dev", "/proc", "/sys")
_FLAGS: Final = frozenset(("exec", "noexec", "suid", "nosuid", "dev", "nodev", "ro", "rw"))
_SIZE: Final = r"\d+[kmg]?"
_VALUES: Final = {
    "size": re.compile(rf"{_SIZE}|\d{{1,3}}%", re.IGNORECASE),
    "mode": re.compile(r"[0-7]{1,4}"),
    "uid": re.compile(r"\d+"),
    "gid": re.compile(r"\d+"),
    "nr_inodes": re.compile(_SIZE, re.IGNORECASE),
}
_NOT_FOUND: Final = 404
_WRITE: Final = 'cat > "$1" && chmod "$2" "$1" && chown "$3" "$1"'


@dataclass(frozen=True)
class File:
    """A file to copy into a container, with permissions and an owner.

    Attributes:
        content: Bytes, or the path of a file of this machine.
        mode: Its permissions, such as ``0o600``; without, 0755 for a script (``#!``), else 0644.
        owner: User, or user and group, as numbers or names of the container: ``"postgres"``,
            ``"1000:1000"``. A user without a group has the group of that user.
    """

    content: bytes | str | Path
    mode: int | None = None
    owner: int | str = 0

    def __post_init__(self) -> None:
        good = isinstance(self.content, bytes) or options.is_local_path(self.content)
        options.check(self, "content", good, "bytes, or the path of a file")
        check_mode(self.mode, "File(mode=…)")
        check_owner(self.owner, "File(owner=…)")


def check_mode(mode: object, place: str) -> None:
    """Raise DeclarationError unless permissions are a number such as ``0o644``, or None."""
    if mode is not None and not (type(mode) is int and mode & _MODES == mode):
        raise DeclarationError(f"{place} cannot be {mode!r}: expected permissions, such as 0o644")


def check_owner(owner: object, place: str) -> None:
    """Raise DeclarationError unless a user, and a group if given, are numbers or names."""
    good = type(owner) is int and owner >= 0
    if not good and not (isinstance(owner, str) and _OWNER.fullmatch(owner)):
        raise DeclarationError(
            f"{place} cannot be {owner!r}: expected a user, such as 'postgres' or 1000, or user "
            "and group, such as '1000:1000'"
        )


def check_files(service: object, files: object, *, mounted: Collection[str]) -> None:
    """Raise DeclarationError unless the option ``files`` can be used, with these ``tmpfs``."""
    good = isinstance(files, Mapping) and all(
        options.is_path(path)
        and not path.endswith("/")
        and (isinstance(content, (bytes, File)) or options.is_local_path(content))
        for path, content in files.items()
    )
    expected = "a mapping of absolute container path to host path, bytes or File(…)"
    options.check(service, "files", good, expected)
    if isinstance(files, Mapping):
        check_hidden(service, {path: path for path in files}, mounted)


def check_hidden(service: object, paths: Mapping[str, str], mounted: Collection[str]) -> None:
    """Raise DeclarationError for a file that what is `mounted` at the start would hide.

    `paths` has each as it is declared, and without links on its way.
    """
    for path, real in paths.items():
        place = place_in_memory(real, mounted)
        if place:
            raise DeclarationError(
                f"{type(service).__name__}(files=…) cannot write {path!r}: {place} is mounted, "
                "empty, when the container starts, and would hide it. Put it elsewhere, or write "
                "it when the service runs, with write_file()"
            )


def place_in_memory(path: str, mounted: Collection[str]) -> str:
    """Where a path lies in a file system that is mounted at the start; empty when in none."""
    path = posixpath.normpath(path)
    for place in (*_ALWAYS_MOUNTED, *mounted):
        inside = f"{posixpath.normpath(place).rstrip('/')}/"
        if path.startswith(inside):
            return place
    return ""


def copies(service: object, files: Mapping[str, str | Path | bytes | File]) -> list[Copy]:
    """What the option ``files`` says, read; DeclarationError where that cannot be."""
    from orchestrator.engine.api import Copy  # declaring loads no more than it needs

    found = []
    for path, value in files.items():
        file = value if isinstance(value, File) else File(value)
        data = file.content
        if not isinstance(data, bytes):
            data = options.read_file(service, "files", data)
        found.append(Copy(path=path, source=data, mode=file.mode, owner=str(file.owner)))
    return found


def check_tmpfs(service: object, tmpfs: object) -> None:
    """Raise DeclarationError unless the option ``tmpfs`` can be used."""
    good = isinstance(tmpfs, Mapping) and all(
        options.is_path(path) and tmpfs_options(size) for path, size in tmpfs.items()
    )
    expected = "a mapping of absolute container path to size or mount options, such as '64m' or "
    options.check(service, "tmpfs", good, f"{expected}'size=64m,exec,mode=0770,uid=1000'")


def tmpfs_options(size: object) -> str | None:
    """The mount options of a file system in memory, from its size or from themselves.

    None when they cannot be used.
    """
    if options.in_bytes(size) > 0:
        return f"size={options.in_bytes(size)}"
    if not isinstance(size, str) or not size:
        return None
    for word in size.split(","):
        name, equals, value = word.partition("=")
        good = _VALUES[name].fullmatch(value) if equals and name in _VALUES else word in _FLAGS
        if not good:
            return None
    return size


def read(running: Runtime, path: str, *, mounted: Collection[str]) -> bytes:
    """`Service.read_file`, where this is mounted at the start."""
    _check_path(running, "read_file", path)
    if not _is_in_memory(running, path, mounted):
        try:
            return running.engine.files.get_file(running.container, path)
        except EngineError as error:
            if error.status is None:
                raise ServiceError(str(error), service=running.alias) from error
            if error.status != _NOT_FOUND:
                raise
    # In memory, perhaps by a link that the engine does not see: only a process there sees it.
    try:
        found = running.engine.exec(running.container, ["cat", path], user="0")
    except EngineError as error:
        raise _error(running, f"there is no file {path}") from error
    if found.exit_code:
        is_folder = "s a directory" in found.stderr
        raise _error(running, f"{path} is a folder" if is_folder else f"there is no file {path}")
    return found.stdout_bytes


def write(
    running: Runtime,
    path: str,
    content: str | bytes,
    *,
    mode: int | None,
    owner: int | str,
    mounted: Collection[str],
) -> None:
    """`Service.write_file`, where this is mounted at the start."""
    from orchestrator.engine.api import Copy

    _check_path(running, "write_file", path)
    check_mode(mode, "write_file(mode=…)")
    check_owner(owner, "write_file(owner=…)")
    data = options.in_utf8(content, "what write_file() writes")
    engine, container = running.engine, running.container
    try:
        if not _is_in_memory(running, path, mounted):
            file = Copy(path=path, source=data, mode=mode, owner=str(owner))
            engine.files.copy_into(container, [file])
            return
        script = data.startswith(b"#!")
        bits = f"{(0o755 if script else 0o644) if mode is None else mode:o}"
        argv = ["sh", "-c", _WRITE, "sh", path, bits, str(owner)]
        done = engine.exec(container, argv, user="0", stdin=data)
    except EngineError as error:
        raise _error(running, f"{path} cannot be written: {error}") from error
    if done.exit_code:
        why = done.output.strip()
        raise _error(running, f"{path}, which is in memory, cannot be written: {why}")


def _check_path(running: Runtime, method: str, path: object) -> None:
    if not options.is_path(path) or str(path).endswith("/"):
        raise DeclarationError(
            f"{running.alias}.{method}({path!r}) cannot be used: expected the absolute path of a "
            "file in the container"
        )


def _is_in_memory(running: Runtime, path: str, mounted: Collection[str]) -> bool:
    if mounted and not place_in_memory(path, mounted):
        path = running.engine.files.real_path(running.container, path)
    return place_in_memory(path, mounted) != ""


def _error(running: Runtime, what: str) -> ServiceError:
    return ServiceError(f"{running.alias}: {what}", service=running.alias)
