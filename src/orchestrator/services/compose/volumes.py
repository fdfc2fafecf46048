"""What a service of a Compose file finds in its file system: volumes, folders, secrets, configs.

Nothing of this machine is mounted, so that a test leaves the project as it was, and an engine
elsewhere serves as well: a bound folder is a volume that begins as a copy, a bound file a copy.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from orchestrator.engine.api import Copy
from orchestrator.services.container import allowed_path
from orchestrator.services.hooks import Volume

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from orchestrator.services.compose.file import Entry, Project

_MOST: Final = 64 << 20  # bytes that are copied from one folder
_VOLUME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_OF_KERNEL: Final = ("/dev", "/proc", "/sys")
_PARTS: Final = 3
# How a bind is shared with this machine, where there is one; here are copies.
_WITHOUT_EFFECT: Final = (
    *("rw", "z", "Z", "cached", "consistent", "delegated", "private", "rprivate"),
)
_BY_KIND: Final = {
    "bind": ("propagation", "create_host_path", "selinux", "recursive"),
    "volume": ("nocopy", "labels"),
    "tmpfs": ("size", "mode"),
}
_READABLE: Final = 0o555
_USUAL_MODE: Final = 0o444


@dataclass
class FileSystem:
    """What is mounted and copied for one service.

    Attributes:
        tmpfs: Container path to mount options.
        mounts: Container path to an engine's socket that is allowed.
        secrets: What logs and errors never show.
    """

    volumes: list[Volume] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    tmpfs: dict[str, str] = field(default_factory=dict)
    mounts: dict[str, Path] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Mount:
    """One entry of ``volumes``, whichever way it is written."""

    entry: Entry
    kind: str
    source: Entry | None
    target: str
    read_only: bool = False
    no_copy: bool = False
    create: bool = True
    options: str = ""


def file_system(
    name: str, service: Entry, project: Project, *, allow: Sequence[str | Path]
) -> FileSystem:
    """What a service finds in its file system.

    Args:
        name: The service's.
        service: Its entry.
        project: The file, with the volumes, secrets and configs that it declares.
        allow: What may be copied from outside of the project's folder.

    Raises:
        DeclarationError: An entry is not supported, or what it names may not get into a container.
    """
    found = FileSystem()
    places: dict[str, Entry] = {}
    for entry in service.entries_of("volumes"):
        mount = _long(entry) if isinstance(entry.value, dict) else _short(entry)
        _claim(places, mount.target, entry)
        _add(found, name, mount, project, allow)
    for entry in service.entries_of("tmpfs"):
        target, _, options = entry.text().partition(":")
        _claim(places, _checked(entry, target), entry)
        found.tmpfs[target] = options
    for kind, folder in (("secrets", "/run/secrets"), ("configs", "/")):
        for entry in service.entries_of(kind):
            copy = _granted(kind, folder, entry, service, project, allow)
            _claim(places, copy.path, entry)
            found.copies.append(copy)
            if kind == "secrets":
                found.secrets.append(_content(copy))
    read_only = service.get("read_only")
    _keep_in_volumes(found, name, places, everything=read_only is not None and read_only.flag())
    return found


def _claim(places: dict[str, Entry], target: str, entry: Entry) -> None:
    if target in places:
        raise entry.error(f"is {target}, where line {places[target].line} has put something")
    places[target] = entry


def _checked(entry: Entry, target: str) -> str:
    """A container path that something can be put at."""
    path = target.rstrip("/")
    if not path.startswith("/") or posixpath.normpath(target) != path or ":" in path:
        raise entry.error(f"has the target {target!r}; expected an absolute path below /")
    if any(_is_in(path, folder) for folder in _OF_KERNEL) and not _is_in(path, "/dev/shm"):  # noqa: S108
        raise entry.error(f"has the target {target!r}, which belongs to the kernel")
    return path


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _short(entry: Entry) -> _Mount:
    text = entry.text()
    parts = text.split(":")
    if len(parts) > _PARTS or not all(parts):
        raise entry.error(f"is {text!r}; expected SOURCE:TARGET, with :ro if need be")
    if len(parts) == 1:
        return _Mount(entry, "volume", None, _checked(entry, text))
    source, options = entry.replaced(parts[0]), set("".join(parts[2:]).split(",")) - {""}
    for option in options.difference(("ro", "nocopy"), _WITHOUT_EFFECT):
        raise entry.error(f"has the option {option!r}, which is not supported")
    kind = "bind" if parts[0][0] in "./~" else "volume"
    target = _checked(entry, parts[1])
    return _Mount(entry, kind, source, target, "ro" in options, "nocopy" in options)


def _long(entry: Entry) -> _Mount:
    kind = entry.must("type").text()
    if kind not in _BY_KIND:
        raise entry.error(f"has the type {kind!r}; supported are {', '.join(_BY_KIND)}")
    entry.only("type", "source", "target", "read_only", "consistency", *_BY_KIND)
    more = entry.get(kind)
    values = more.only(*_BY_KIND[kind]).mapping() if more else {}
    flags = {key: entry.flag() for key, entry in values.items() if key in _FLAGS}
    options = []
    if "size" in values:
        options.append(f"size={values['size'].size()}")
    if "mode" in values:
        options.append(f"mode={_mode(values['mode']):o}")
    shared = values.get("propagation")
    if shared and shared.text() not in _WITHOUT_EFFECT:
        raise shared.error("is not supported: nothing of this machine is mounted")
    read_only = entry.get("read_only")
    return _Mount(
        entry,
        kind,
        entry.must("source") if kind == "bind" else entry.get("source"),
        _checked(entry.must("target"), entry.must("target").text()),
        read_only=read_only is not None and read_only.flag(),
        no_copy=flags.get("nocopy", False),
        create=flags.get("create_host_path", True),
        options=",".join(options),
    )


_FLAGS: Final = ("nocopy", "create_host_path")


def _mode(entry: Entry) -> int:
    try:
        return entry.value if isinstance(entry.value, int) else int(entry.text(), 8)
    except ValueError:
        raise entry.error(f"is {entry.text()!r}; expected an octal mode such as 0440") from None


def _add(
    found: FileSystem, name: str, mount: _Mount, project: Project, allow: Sequence[str | Path]
) -> None:
    if mount.kind == "tmpfs":
        if mount.source:
            raise mount.source.error("is not for a tmpfs, which begins empty")
        read_only = "ro" if mount.read_only else ""
        found.tmpfs[mount.target] = ",".join(filter(None, [mount.options, read_only]))
        return
    volume = Volume(
        key=f"{name}:{mount.target}",
        path=mount.target,
        read_only=mount.read_only,
        no_copy=mount.no_copy,
    )
    if mount.source is None:
        found.volumes.append(volume)
    elif mount.kind == "volume":
        text = mount.source.text()
        declared = project.declared("volumes", mount.source)
        declared.only("name", "labels", "driver", "driver_opts", "external")
        driver = declared.get("driver")
        if not _VOLUME.fullmatch(text):
            raise mount.source.error(f"is {text!r}, which cannot be the name of a volume")
        if driver and driver.text() != "local":
            raise driver.error("other than local is not supported")
        if given := declared.get("driver_opts"):
            raise given.error("is not supported: a volume is a folder of the engine's")
        found.volumes.append(replace(volume, key=f"volume {text}"))
    else:
        _bind(found, mount, volume, allow)


def _bind(found: FileSystem, mount: _Mount, volume: Volume, allow: Sequence[str | Path]) -> None:
    assert mount.source is not None  # noqa: S101 - a bind has one
    path = _allowed(mount.source, allow)
    if path.is_socket():
        found.mounts[mount.target] = path
        return
    content = []
    if path.is_file() or path.is_dir():
        size = sum(file.lstat().st_size for file in [path, *path.rglob("*")])
        if size > _MOST:
            raise mount.source.error(
                f"is {path}, which has {size >> 20} MB; at most {_MOST >> 20} MB are copied"
            )
        content = [Copy(path=mount.target, source=path)]
    elif path.exists():
        raise mount.source.error(f"is {path}, which is neither a file nor a folder")
    elif not mount.create:
        raise mount.source.error(f"is {path}, which does not exist")
    if path.is_file():
        found.copies += content
    else:
        found.volumes.append(replace(volume, key=f"folder {path}", no_copy=True, content=content))


def _allowed(entry: Entry, allow: Sequence[str | Path]) -> Path:
    return allowed_path(entry.file(), allow=allow, option=entry.place)


def _granted(
    kind: str,
    folder: str,
    entry: Entry,
    service: Entry,
    project: Project,
    allow: Sequence[str | Path],
) -> Copy:
    """The file that a secret or a config is."""
    long = isinstance(entry.value, dict)
    source = entry.only("source", "target", "uid", "gid", "mode").must("source") if long else entry
    declared = project.declared(kind, source)
    ways = ("file", "environment", *(["content"] if kind == "configs" else []))
    declared.only(*ways, "name", "labels", "external")
    given = [way for way in ways if declared.get(way)]
    if len(given) != 1:
        raise declared.error(f"needs one of {', '.join(ways)}")
    value = declared.must(given[0])
    content: Path | bytes
    if given[0] == "file":
        content = _allowed(value, allow)
        if not content.is_file():
            raise value.error(f"is {content}, which is no file")
    elif given[0] == "environment":
        variable = declared.source.variables.get(value.text())
        if variable is None:
            raise value.error(f"names the variable {value.text()}, which is not set")
        content = variable.encode()
    else:
        content = value.text().encode()
    target = entry.get("target") if long else None
    path = posixpath.join(folder, (target or source).text())
    user = service.get("user")
    owner, _, group = (user.text() if user else "").partition(":")
    ids = {"uid": owner, "gid": group}
    mode = entry.get("mode") if long else None
    for key in ids:
        if long and (own := entry.get(key)):
            ids[key] = str(own.whole())
    return Copy(
        path=_checked(target or entry, path),
        source=content,
        mode=_mode(mode) & _READABLE if mode else _USUAL_MODE,
        uid=int(ids["uid"]) if ids["uid"].isdecimal() else 0,
        gid=int(ids["gid"]) if ids["gid"].isdecimal() else 0,
    )


def _content(copy: Copy) -> str:
    source = copy.source
    try:
        return (source if isinstance(source, bytes) else source.read_bytes()).decode().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _keep_in_volumes(
    found: FileSystem, name: str, places: Mapping[str, Entry], *, everything: bool
) -> None:
    """Have volumes for the files that cannot be written into the container.

    That is everything where it is read-only, and what is in a tmpfs. Such a volume begins as the
    image's folder, with the file in it.
    """
    folders: dict[str, list[Copy]] = {}
    for copy in [*found.copies]:
        folder = posixpath.dirname(copy.path)
        hidden = any(_is_in(copy.path, target) for target in found.tmpfs)
        mounted = any(_is_in(copy.path, volume.path) for volume in found.volumes)
        if mounted or not (hidden or everything):
            continue
        if folder == "/" or folder in places:
            why = "where everything is read_only" if everything else "where a tmpfs is"
            raise places[copy.path].error(f"is {copy.path}, {why}; give it a folder of its own")
        found.copies.remove(copy)
        folders.setdefault(folder, []).append(copy)
    found.volumes += [
        Volume(key=f"{name}:{folder}", path=folder, read_only=True, content=copies)
        for folder, copies in folders.items()
    ]
