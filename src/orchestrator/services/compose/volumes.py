"""What a service of a Compose file finds in its file system: volumes, folders, secrets, configs.

Nothing of this machine is mounted, so that a test leaves the project as it was, and an engine
elsewhere serves as well: a bound folder is a volume that begins as a copy, a bound file a copy.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from orchestrator.engine.api import Copy
from orchestrator.services.compose.file import Entry
from orchestrator.services.container import allowed_path
from orchestrator.services.hooks import Volume

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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
        self._user = service.read("user", Entry.text, "").split(":")
        for entry in service.entries_of("volumes"):
            self._mount(_long_form(entry))
        for entry in service.entries_of("tmpfs"):
            target, _, options = entry.text().partition(":")
            self.tmpfs[self._claim(target, entry)] = options
        for kind, folder in (("secrets", "/run/secrets"), ("configs", "/")):
            for entry in service.entries_of(kind):
                self._grant(kind, folder, entry)
        self._keep_in_volumes(everything=service.flag_of("read_only"))

    def _claim(self, target: str, entry: Entry) -> str:
        """A container path that something can be put at, if nothing is there."""
        path = target.rstrip("/")
        if not path.startswith("/") or posixpath.normpath(target) != path or ":" in path:
            raise entry.error(f"has the target {target!r}; expected an absolute path below /")
        if any(_is_in(path, folder) for folder in _OF_KERNEL) and not _is_in(path, "/dev/shm"):  # noqa: S108
            raise entry.error(f"has the target {target!r}, which belongs to the kernel")
        if (before := self._places.setdefault(path, entry)) is not entry:
            raise entry.error(f"is {path}, where line {before.line} has put something")
        return path

    def _mount(self, entry: Entry) -> None:
        """Have what an entry of ``volumes`` says, in its long form."""
        kind = entry.must("type").text()
        if kind not in _BY_KIND:
            raise entry.error(f"has the type {kind!r}; supported are {', '.join(_BY_KIND)}")
        entry.only("type", "source", "target", "read_only", "consistency", *_BY_KIND)
        more = entry.part(kind).only(*_BY_KIND[kind])
        shared = more.get("propagation")
        if shared and shared.text() not in _SHARED:
            raise shared.error("is not supported: nothing of this machine is mounted")
        source = entry.must("source") if kind == "bind" else entry.get("source")
        target = self._claim(entry.must("target").text(), entry)
        volume = Volume(
            key=f"{self._name}:{target}",
            path=target,
            read_only=entry.flag_of("read_only"),
            no_copy=more.flag_of("nocopy"),
        )
        if kind == "tmpfs":
            if source:
                raise source.error("is not for a tmpfs, which begins empty")
            size, mode = more.read("size", Entry.size, None), more.read("mode", _mode, None)
            options = (
                "" if size is None else f"size={size}",
                "" if mode is None else f"mode={mode:o}",
                "ro" if volume.read_only else "",
            )
            self.tmpfs[target] = ",".join(filter(None, options))
        elif source is None:
            self.volumes.append(volume)
        elif kind == "volume":
            self.volumes.append(replace(volume, key=self._declared_volume(source)))
        else:
            self._bind(source, volume, create=more.flag_of("create_host_path", usual=True))

    def _declared_volume(self, source: Entry) -> str:
        declared = self._project.declared("volumes", source)
        declared.only("name", "labels", "driver", "driver_opts", "external")
        if declared.read("driver", Entry.text, "local") != "local":
            raise declared.must("driver").error("other than local is not supported")
        if options := declared.get("driver_opts"):
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
        entry = entry.long("source").only("source", "target", "uid", "gid", "mode")
        source = entry.must("source")
        target = posixpath.join(folder, entry.read("target", Entry.text, source.text()))
        user, group, *_ = [int(it) if it.isdecimal() else 0 for it in [*self._user, ""]]
        content = self._content_of(kind, source)
        self.copies.append(
            Copy(
                path=self._claim(target, entry),
                source=content,
                mode=entry.read("mode", lambda it: _mode(it) & _READABLE, _USUAL_MODE),
                owner=f"{entry.read('uid', Entry.whole, user)}:"
                f"{entry.read('gid', Entry.whole, group)}",
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


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _long_form(entry: Entry) -> Entry:
    """What an entry of ``volumes`` stands for that is written as SOURCE:TARGET:OPTIONS."""
    if isinstance(entry.value, dict):
        return entry
    text = entry.text()
    parts = text.split(":")
    if len(parts) > _PARTS or not all(parts):
        raise entry.error(f"is {text!r}; expected SOURCE:TARGET, with :ro if need be")
    options = parts[2].split(",") if len(parts) == _PARTS else []
    for option in options:
        if option not in ("ro", "nocopy", *_SHARED):
            raise entry.error(f"has the option {option!r}, which is not supported")
    *source, target = map(entry.replaced, parts[:2])
    values = {
        "type": "bind" if len(parts) > 1 and text[0] in "./~" else "volume",
        "source": source[0].value if source else None,
        "target": target.value,
        "read_only": "ro" in options,
    }
    found = {key: replace(entry, value=value) for key, value in values.items()}
    no_copy = replace(entry, value={"nocopy": replace(entry, value="nocopy" in options)})
    return replace(entry, value={**found, "volume": no_copy})


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
