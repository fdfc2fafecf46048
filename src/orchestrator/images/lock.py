"""The work of `lock`: asking registries for entries, and writing what they say into the file."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import LockError
from orchestrator.files import replacing
from orchestrator.images.lockfile import ENTRY_NAME, FILE_NAME, LockedImage, LockFile, parse_lock
from orchestrator.images.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.images.lockfile import LockedPlatform
    from orchestrator.images.reference import Reference

NEW: Final = (
    "# The images this project's tests run, by digest.\n"
    "# `python -m orchestrator pull` fetches them, `lock --update` moves them on.\n"
    "version = 1\n"
)
_COMMENT: Final = re.compile("#.*")  # nothing else in a lock file may hold a #


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
    lines = [f"[images.{image.name}]", f'reference = "{image.reference.tagged}"']
    lines += [f'digest = "{image.digest or ""}"']
    lines += [
        f'platforms."{name}" = {_inline(platform)}'
        for name, platform in sorted(image.platforms.items())
    ]
    return "\n".join([text.rstrip(), "", *lines, ""])


def _inline(platform: LockedPlatform) -> str:
    parts = {"manifest": platform.manifest, "config": platform.config}
    pairs = ", ".join(f'{key} = "{value}"' for key, value in parts.items() if value)
    return f"{{ {pairs} }}"


def _changed(text: str, old: LockedImage, new: LockedImage) -> str:
    """Set the new values of an entry; returns the text as it was where tomlkit fails."""
    try:
        import tomlkit  # 0.1 s to import, and an entry is rarely changed
    except ImportError:
        raise LockError(
            "changing an entry with its comments kept needs tomlkit. Install it: "
            "pip install 'unittest-orchestrator[lock]'"
        ) from None
    comments = Counter(_COMMENT.findall(text))
    try:
        document = tomlkit.parse(text)
        table: Any = document["images"][new.name]
        if old.reference.tagged != new.reference.tagged:  # it may be written in a shorter form
            table["reference"] = new.reference.tagged
        if old.digest != new.digest:
            table["digest"] = new.digest
        for name in old.platforms.keys() - new.platforms.keys():
            comments[table["platforms"][name].trivia.comment] -= 1  # it goes with its line
            del table["platforms"][name]
        for name, platform in sorted(new.platforms.items()):
            if platform != old.platforms.get(name):
                _set_platform(table, name, tomlkit.parse(f"it = {_inline(platform)}\n")["it"])
        changed = tomlkit.dumps(document)
    except (tomlkit.exceptions.TOMLKitError, AttributeError):  # no table of its own
        return text
    return changed if Counter(_COMMENT.findall(changed)) == +comments else text


def _set_platform(table: Any, name: str, value: Any) -> None:
    there = table.get("platforms")
    if there is None:
        from tomlkit import key

        # Behind the last key: comments that follow belong to the next table, but tomlkit would
        # have them stay in front.
        body = table.value.body
        comments: list[Any] = []
        while body and body[-1][0] is None:
            comments.insert(0, body.pop())
        table.append(key(["platforms", name]), value)
        body.extend(comments)
    elif name in there and there[name].keys() == value.keys():
        there[name].update(value)
    else:
        there[name] = value


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
