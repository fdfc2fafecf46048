"""The work of `lock`: asking registries for entries, and writing what they say into the file."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import EngineError, LockError
from orchestrator.files import replacing
from orchestrator.images.lockfile import ENTRY_NAME, FILE_NAME, LockedImage, LockFile, parse_lock
from orchestrator.images.reference import parse_reference
from orchestrator.images.registry import concurrent_map, look_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orchestrator.images.failures import Retry
    from orchestrator.images.lockfile import LockedPlatform
    from orchestrator.images.reference import Reference
    from orchestrator.images.registry import Registries
    from orchestrator.settings import Settings

NEW: Final = (
    "# The images this project's tests run, by digest.\n"
    "# `python -m orchestrator pull` fetches them, `lock --update` moves them on.\n"
    "version = 1\n"
)
_COMMENT: Final = re.compile("#.*")  # nothing else in a lock file may hold a #


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a registry said about one image.

    Attributes:
        image: The image as asked for.
        now: The image as the registry has it, or None when it failed.
        error: Why it failed, or None.
    """

    image: LockedImage
    now: LockedImage | None
    error: EngineError | None = None


def ask(
    registries: Registries,
    images: Sequence[LockedImage],
    *,
    settings: Settings,
    report: Callable[[str], None],
    retry: Retry | None = None,
) -> list[Answer]:
    """Ask the registries for several images at once: by tag where there is no digest."""
    stopping = threading.Event()

    def one(image: LockedImage) -> Answer:
        try:
            now = look_up(
                registries, image, settings=settings, report=report, retry=retry, stopping=stopping
            )
        except EngineError as error:
            return Answer(image=image, now=None, error=error)
        return Answer(image=image, now=now)

    try:
        return concurrent_map(one, images)
    except BaseException:
        stopping.set()
        raise


def requested(texts: Iterable[str], lock: LockFile) -> list[LockedImage]:
    """The images of ``lock REF…``, each ``REFERENCE`` or ``NAME=REFERENCE``, under their names.

    Without a name, the entry with the same repository is meant, or one is named after the last
    part of the repository.

    Raises:
        InvalidReferenceError: A reference cannot be read.
        LockError: A name cannot be used, or belongs to another image.
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


def unpinned(image: LockedImage) -> LockedImage:
    """The image without its digest, to ask what its tag stands for now."""
    return LockedImage(name=image.name, reference=image.reference.with_digest(None))


def cache_key(lock: LockFile) -> str:
    """A key for CI caches: changes when an image does, not with comments, order or layout."""
    words = sorted(f"{entry.name} {entry}" for entry in lock.entries.values())
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def empty_lock(path: Path) -> LockFile:
    """A lock file without entries that does not exist yet."""
    return parse_lock(NEW.encode(), path=path)


def write_entries(lock: LockFile, images: Sequence[LockedImage]) -> Path:
    """Write changed entries, and return where: the lock file, or a new one where none is.

    The packaged lock is never written; what it has becomes the beginning of the new one.

    Raises:
        LockError: The file cannot be written, or tomlkit is missing, which changes an entry.
    """
    if not lock.is_default:
        write_lock(lock.path, edited(lock.text, path=lock.path, images=images), expected=lock.text)
        return lock.path
    path = Path.cwd() / FILE_NAME
    write_lock(path, edited(NEW, path=path, images=images), expected=None)
    return path


def write_lock(path: Path, text: str, *, expected: str | None) -> None:
    """Write a lock file, whole or not at all, with the permissions it had.

    Args:
        path: The file; where it is a link, what it leads to is written.
        text: The new content.
        expected: The content it was made from, or None for a file that is not there yet.

    Raises:
        LockError: It cannot be written, or somebody else changed it in the meantime.
    """
    try:
        found = path.read_text(encoding="utf-8") if path.exists() else None
        if found is not None and found.replace("\r\n", "\n") != expected:
            raise LockError(f"{path} was changed by somebody else in the meantime; try again")
        with replacing(path) as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except (OSError, ValueError) as error:  # ValueError: it is not text any more
        reason = getattr(error, "strerror", None) or error
        raise LockError(f"{path} cannot be written: {reason}") from error


def edited(text: str, *, path: Path, images: Iterable[LockedImage]) -> str:
    """Change or add entries in the text of a lock file; comments stay where they are.

    Raises:
        LockError: The file is laid out in a way in which that cannot be done, or an entry is to be
            changed and tomlkit is missing.
    """
    entries = dict(parse_lock(text.encode(), path=path).entries)
    for image in images:
        old = entries.get(image.name)
        if old is None:
            text = _added(text, image, names=list(entries))
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


def _added(text: str, image: LockedImage, *, names: list[str]) -> str:
    """Insert an entry: by name where the file is sorted by name, else at the end."""
    lines = [f"[images.{image.name}]", f'reference = "{image.reference.tagged}"']
    lines += [f'digest = "{image.digest or ""}"']
    lines += [
        f'platforms."{name}" = {_inline(platform)}'
        for name, platform in sorted(image.platforms.items())
    ]
    table = "\n".join(lines) + "\n"
    after = next((name for name in names if name > image.name), None)
    if after and names == sorted(names):
        # the comment right above an entry belongs to it
        header = re.search(rf"^(?:#.*\n)*\[images\.{after}\]", text, re.MULTILINE)
        if header:
            return f"{text[: header.start()]}{table}\n{text[header.start() :]}"
    return f"{text.rstrip()}\n\n{table}"


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
