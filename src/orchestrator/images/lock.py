"""The work of `lock`: asking registries for entries, and writing what they say into the file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.errors import LockError
from orchestrator.files import replacing
from orchestrator.images.lockfile import ENTRY_NAME, FILE_NAME, LockedImage, LockFile, parse_lock
from orchestrator.images.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator.images.reference import Reference

NEW: Final = (
    "# The images this project's tests run, by digest.\n"
    "# `python -m orchestrator pull` fetches them, `lock --update` moves them on.\n"
    "version = 1\n"
)


def requested(texts: Iterable[str], lock: LockFile) -> list[LockedImage]:
    """The images of ``lock REF…``, each ``REFERENCE`` or ``NAME=REFERENCE``, under their names.

    Without a name, the entry with the same repository is meant, or one is named after the last
    part of the repository.
    """
    found: dict[str, LockedImage] = {}
    for text in texts:
        given, equals, rest = text.rpartition("=")
        reference = parse_reference(rest)
        if not reference.tag:
            raise LockError(f"{text!r} has no tag; lock needs one, to see later where it moved")
        name = given if equals else _name(reference, lock)
        if not ENTRY_NAME.fullmatch(name):
            raise LockError(f"{name!r} is no name; it may hold letters, digits, '-' and '_'")
        if name in found:
            raise LockError(f"two images for the entry {name!r}; name one: NAME={rest}")
        found[name] = LockedImage(name=name, reference=reference)
    return list(found.values())


def write_entries(lock: LockFile, images: Sequence[LockedImage]) -> Path:
    """Write changed entries, and return where: the lock file, or a new one where none is.

    The packaged lock is never written; what it has becomes the beginning of the new one. A file is
    written whole or not at all, with the permissions it had; a link stays one.
    """
    path = Path.cwd() / FILE_NAME if lock.is_default else lock.path
    text = edited(NEW if lock.is_default else lock.text, path=path, images=images)
    try:
        expected = None if lock.is_default else lock.text
        found = path.read_text(encoding="utf-8") if path.exists() else expected
        if found != expected and (found or "").replace("\r\n", "\n") != expected:
            raise LockError(f"{path} was changed by somebody else in the meantime; try again")
        with replacing(path) as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except (OSError, ValueError) as error:  # ValueError: it is not text any more
        reason = getattr(error, "strerror", None) or error
        raise LockError(f"{path} cannot be written: {reason}") from error
    return path


def edited(text: str, *, path: Path, images: Iterable[LockedImage]) -> str:
    """Change or add entries in the text of a lock file; comments stay where they are."""
    entries = dict(parse_lock(text.encode(), path=path).entries)
    for image in images:
        old = entries.get(image.name)
        if old is None:
            text = _added(text, image)
        elif old != image:
            text = _changed(text, old, image)
        entries[image.name] = image
    try:
        done = dict(parse_lock(text.encode(), path=path).entries) == entries
    except LockError:
        done = False
    if not done:
        raise LockError(
            f"{path} is laid out in a way that cannot be rewritten with its comments kept; "
            "write each entry as a table [images.NAME] with one key per line"
        )
    return text


def _added(text: str, image: LockedImage) -> str:
    lines = [f"{key} = {value}" for key, value in _values(image).items()]
    return "\n".join([text.rstrip(), "", f"[images.{image.name}]", *lines, ""])


def _values(image: LockedImage) -> Mapping[str, str]:
    """The keys of an entry, and their values as TOML."""
    values = {"reference": f'"{image.reference.tagged}"', "digest": f'"{image.digest or ""}"'}
    for name, platform in sorted(image.platforms.items()):
        parts = {"manifest": platform.manifest, "config": platform.config}
        pairs = ", ".join(f'{key} = "{value}"' for key, value in parts.items() if value)
        values[f'platforms."{name}"'] = f"{{ {pairs} }}"
    return values


def _changed(text: str, old: LockedImage, new: LockedImage) -> str:
    """Set the new values of an entry, each in its own line, so that comments stay."""
    header = re.search(rf"^\s*\[\s*images\s*\.\s*{new.name}\s*\].*\n", text, re.MULTILINE)
    if header is None:
        return text
    following = re.compile(r"^\s*\[", re.MULTILINE).search(text, header.end())
    end = following.start() if following else len(text)
    table, before, after = text[header.end() : end], _values(old), _values(new)
    for key in before.keys() - after.keys():
        table = re.sub(rf"^\s*{re.escape(key)}\s*=.*\n", "", table, flags=re.MULTILINE)
    for key, value in sorted(after.items() - before.items()):
        line = rf"^(\s*{re.escape(key)}\s*=\s*)(\"[^\"\n]*\"|'[^'\n]*'|\{{[^}}\n]*\}})"
        table, found = re.subn(line, rf"\g<1>{value}", table, flags=re.MULTILINE)
        if not found:
            *_, last = re.finditer(r"^[^#\n]*=.*\n?", table, re.MULTILINE)
            table = f"{table[: last.end()].rstrip()}\n{key} = {value}\n{table[last.end() :]}"
    return f"{text[: header.end()]}{table}{text[end:]}"


def _name(reference: Reference, lock: LockFile) -> str:
    same = [e.name for e in lock.entries.values() if e.reference.name == reference.name]
    if len(same) > 1:
        raise LockError(
            f"several entries are {reference.name}: {', '.join(same)}; "
            f"say which: {same[0]}={reference.familiar}"
        )
    if same and not lock.is_default:
        return same[0]
    name = re.sub(r"[^A-Za-z0-9_-]", "-", reference.repository.rpartition("/")[2])
    if name in lock.entries and not lock.is_default:
        raise LockError(
            f"the entry {name!r} is {lock.entries[name].reference.familiar}; "
            f"give another name: NAME={reference.familiar}"
        )
    return name
