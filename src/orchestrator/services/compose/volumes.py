"""What a service of a Compose file finds in its file system: volumes, folders, secrets, configs.

Nothing of this machine is mounted, so that a test leaves the project as it was, and an engine
elsewhere serves as well: a bound folder is a volume that begins as a copy, a bound file a copy.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from orchestrator.engine.api import Copy
from orchestrator.services.container import allowed_path
from orchestrator.services.hooks import Volume

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from orchestrator.services.compose.file import Entry
    from orchestrator.services.compose.project import Project

_NAMED: Final = "volume "
_MOST: Final = 64 << 20  # bytes that are copied from one folder
_OF_KERNEL: Final = ("/dev", "/proc", "/sys")
_PARTS: Final = 3
# How a bind is shared with this machine, where there is one; here are copies.
_SHARED: Final = ("rw", "z", "Z", "cached", "consistent", "delegated", "private", "rprivate")
_BY_KIND: Final = {
    "bind": ("propagation", "create_host_path", "selinux", "recursive"),
    "volume": ("nocopy", "labels"),
    "tmpfs": ("size", "mode"),
}
_READABLE: Final = 0o555
_USUAL_MODE: Final = 0o444
_WHOLE_MODE: Final = 0o7777


@dataclass(frozen=True)
class _Mount:
    """One entry of ``volumes``, whichever way it is written."""

    kind: str
    source: Entry | None
    target: str
    read_only: bool = False
    no_copy: bool = False
    create: bool = True
    options: str = ""


class FileSystem:
    """What is mounted and copied for one service.

    Attributes:
        tmpfs: Container path to mount options.
        mounts: Container path to an engine's socket that is allowed.
        secrets: What logs and errors never show.
    """

    def __init__(
        self, name: str, service: Entry, project: Project, *, allow: Sequence[str | Path]
    ) -> None:
        self.volumes: list[Volume] = []
        self.copies: list[Copy] = []
        self.tmpfs: dict[str, str] = {}
        self.mounts: dict[str, Path] = {}
        self.secrets: list[str] = []
        self._name, self._project, self._allow = name, project, allow
        self._places: dict[str, Entry] = {}
        user = service.get("user")
        self._user = (user.text() if user else "").split(":")
        for entry in service.entries_of("volumes"):
            mount = _long(entry) if isinstance(entry.value, dict) else _short(entry)
            self._claim(mount.target, entry)
            self._mount(mount)
        for entry in service.entries_of("tmpfs"):
            target, _, options = entry.text().partition(":")
            self.tmpfs[self._claim(_checked(entry, target), entry)] = options
        for kind, folder in (("secrets", "/run/secrets"), ("configs", "/")):
            for entry in service.entries_of(kind):
                self._grant(kind, folder, entry)
        read_only = service.get("read_only")
        self._keep_in_volumes(everything=read_only is not None and read_only.flag())

    def _claim(self, target: str, entry: Entry) -> str:
        if (before := self._places.setdefault(target, entry)) is not entry:
            raise entry.error(f"is {target}, where line {before.line} has put something")
        return target

    def _mount(self, mount: _Mount) -> None:
        target, source = mount.target, mount.source
        key = f"{self._name}:{target}"
        volume = Volume(key=key, path=target, read_only=mount.read_only, no_copy=mount.no_copy)
        if mount.kind == "tmpfs":
            if source:
                raise source.error("is not for a tmpfs, which begins empty")
            self.tmpfs[target] = mount.options
        elif source is None:
            self.volumes.append(volume)
        elif mount.kind == "volume":
            self.volumes.append(replace(volume, key=self._declared_volume(source)))
        else:
            self._bind(source, volume, create=mount.create)

    def _declared_volume(self, source: Entry) -> str:
        declared = self._project.declared("volumes", source)
        declared.only("name", "labels", "driver", "driver_opts", "external")
        driver, options = declared.get("driver"), declared.get("driver_opts")
        if driver and driver.text() != "local":
            raise driver.error("other than local is not supported")
        if options:
            raise options.error("is not supported: a volume is a folder of the engine's")
        return f"{_NAMED}{source.text()}"

    def _bind(self, source: Entry, volume: Volume, *, create: bool) -> None:
        path = self._allowed(source)
        if path.is_socket():
            self.mounts[volume.path] = path
        elif path.is_file() or path.is_dir():
            size = sum(file.lstat().st_size for file in [path, *path.rglob("*")])
            if size > _MOST:
                raise source.error(
                    f"is {path}, which has {size >> 20} MB; at most {_MOST >> 20} MB are copied"
                )
            copy = Copy(path=volume.path, source=path)
            if path.is_file():
                self.copies.append(copy)
            else:
                folder = replace(volume, key=f"folder {path}", no_copy=True, content=[copy])
                self.volumes.append(folder)
        elif path.exists():
            raise source.error(f"is {path}, which is neither a file nor a folder")
        elif create:
            self.volumes.append(replace(volume, key=f"folder {path}", no_copy=True))
        else:
            raise source.error(f"is {path}, which does not exist")

    def _allowed(self, entry: Entry) -> Path:
        return allowed_path(entry.file(), allow=self._allow, option=entry.place)

    def _grant(self, kind: str, folder: str, entry: Entry) -> None:
        """Copy the file that a secret or a config is."""
        more: dict[str, Entry] = {}
        if isinstance(entry.value, dict):
            entry.only("source", "target", "uid", "gid", "mode").must("source")
            more = {key: it for key, it in entry.value.items() if it.value is not None}
        source = more.get("source", entry)
        target = posixpath.join(folder, more.get("target", source).text())
        ids = [
            more[key].whole() if key in more else int(own) if own.isdecimal() else 0
            for key, own in zip(("uid", "gid"), [*self._user, ""], strict=False)
        ]
        content = self._content_of(kind, source)
        self.copies.append(
            Copy(
                path=self._claim(_checked(entry, target), entry),
                source=content,
                mode=_mode(more["mode"]) & _READABLE if "mode" in more else _USUAL_MODE,
                owner=f"{ids[0]}:{ids[1]}",
            )
        )
        if kind == "secrets":
            self.secrets.append(_text(content))

    def _content_of(self, kind: str, source: Entry) -> Path | bytes:
        declared = self._project.declared(kind, source)
        ways = ("file", "environment", *(["content"] if kind == "configs" else []))
        declared.only(*ways, "name", "labels", "external")
        given = [way for way in ways if declared.get(way)]
        if len(given) != 1:
            raise declared.error(f"needs one of {', '.join(ways)}")
        value = declared.must(given[0])
        if given[0] == "content":
            return value.text().encode()
        if given[0] == "environment":
            variable = value.source.variables.get(value.text())
            if variable is None:
                raise value.error(f"names the variable {value.text()}, which is not set")
            return variable.encode(errors="surrogateescape")
        path = self._allowed(value)
        if not path.is_file():
            raise value.error(f"is {path}, which is no file")
        return path

    def _keep_in_volumes(self, *, everything: bool) -> None:
        """Have volumes for the files that cannot be written into the container.

        That is everything where it is read-only, and what is in a tmpfs or in a folder that is
        read-only. A volume of its own begins as the image's folder, with the file in it.
        """
        volumes = {volume.path: volume for volume in self.volumes}
        for copy in [*self.copies]:
            folder, entry = posixpath.dirname(copy.path), self._places[copy.path]
            hidden = any(_is_in(copy.path, target) for target in self.tmpfs)
            around = [path for path in volumes if _is_in(copy.path, path)]
            if around:
                volume = volumes[max(around, key=len)]
                if not volume.read_only:
                    continue
                if volume.key.startswith(_NAMED):
                    raise entry.error(f"is {copy.path}, in a volume that is read-only")
            elif not (hidden or everything):
                continue
            elif folder == "/" or folder in self._places:
                why = "where everything is read_only" if everything else "where a tmpfs is"
                raise entry.error(f"is {copy.path}, {why}; give it a folder of its own")
            else:
                volume = Volume(key="", path=folder, read_only=True)
            self.copies.remove(copy)
            key, content = f"{self._name}:{volume.path}", [*volume.content, copy]
            volumes[volume.path] = replace(volume, key=key, content=content)
        self.volumes = [*volumes.values()]


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
        return _Mount("volume", None, _checked(entry, text))
    options = parts[2].split(",") if len(parts) == _PARTS else []
    for option in options:
        if option not in ("ro", "nocopy", *_SHARED):
            raise entry.error(f"has the option {option!r}, which is not supported")
    return _Mount(
        "bind" if parts[0][0] in "./~" else "volume",
        entry.replaced(parts[0]),
        _checked(entry, parts[1]),
        read_only="ro" in options,
        no_copy="nocopy" in options,
    )


def _long(entry: Entry) -> _Mount:
    kind = entry.must("type").text()
    if kind not in _BY_KIND:
        raise entry.error(f"has the type {kind!r}; supported are {', '.join(_BY_KIND)}")
    entry.only("type", "source", "target", "read_only", "consistency", *_BY_KIND)
    more = entry.get(kind)
    values = more.only(*_BY_KIND[kind]).mapping() if more else {}

    def flag(key: str, *, usual: bool = False, of: Mapping[str, Entry] = values) -> bool:
        return of[key].flag() if key in of else usual

    shared = values.get("propagation")
    if shared and shared.text() not in _SHARED:
        raise shared.error("is not supported: nothing of this machine is mounted")
    options = [
        *([f"size={values['size'].size()}"] if "size" in values else []),
        *([f"mode={_mode(values['mode']):o}"] if "mode" in values else []),
        *(["ro"] if flag("read_only", of=entry.mapping()) else []),
    ]
    return _Mount(
        kind,
        entry.must("source") if kind == "bind" else entry.get("source"),
        _checked(entry, entry.must("target").text()),
        read_only="ro" in options,
        no_copy=flag("nocopy"),
        create=flag("create_host_path", usual=True),
        options=",".join(options),
    )


def _mode(entry: Entry) -> int:
    mode = entry.value if type(entry.value) is int else -1
    if re.fullmatch("(0o?)?[0-7]{3,4}", entry.text()) and isinstance(entry.value, str):
        mode = int(entry.text(), 8)
    if not 0 <= mode <= _WHOLE_MODE:
        raise entry.error(f"is {entry.text()!r}; expected an octal mode such as 0440")
    return mode


def _text(content: Path | bytes) -> str:
    try:
        found = content if isinstance(content, bytes) else content.read_bytes()
        return found.decode().strip()
    except (OSError, UnicodeDecodeError):
        return ""
