"""Rewriting a lock file: changed lines only, comments kept, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.errors import LockError
from orchestrator.images.layout import Section, sections
from orchestrator.images.lockfile import parse_lock

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.images.lockfile import LockedImage

NEW: Final = (
    "# The images this project's tests run, by digest.\n"
    "# `python -m orchestrator pull` fetches them, `lock --update` moves them on.\n"
    "version = 1\n"
)
_VALUE: Final = re.compile(r"""^(\s*(["']?)[A-Za-z0-9_-]+\2\s*=\s*)("[^"]*"|'[^']*')""")


def edited(text: str, *, path: Path, images: Iterable[LockedImage]) -> str:
    """The text of a lock file with these entries changed or added.

    Raises:
        LockError: The file is laid out in a way in which its comments would be lost.
    """
    wanted = dict(parse_lock(text.encode(), path=path).entries)
    for image in images:
        text = _with_entry(text, image, old=wanted.get(image.name))
        wanted[image.name] = image
    try:
        unchanged = dict(parse_lock(text.encode(), path=path).entries) == wanted
    except LockError:
        unchanged = False
    if not unchanged:
        raise LockError(
            f"{path} is laid out in a way that cannot be rewritten with its comments kept; "
            "write each entry as a table [images.NAME] with one key per line"
        )
    return text


def write_lock(path: Path, text: str, *, expected: str | None) -> None:
    """Write a lock file, whole or not at all, with the permissions it had.

    Args:
        path: The file; where it is a link, what it leads to is written.
        text: The new content.
        expected: The content it was made from, or None for a file that is not there yet.

    Raises:
        LockError: It cannot be written, or somebody else changed it in the meantime.
    """
    path = Path(os.path.realpath(path))
    try:
        found = path.read_text(encoding="utf-8") if path.exists() else None
        if found is not None and found.replace("\r\n", "\n") != expected:
            raise LockError(f"{path} was changed by somebody else in the meantime; try again")
        _replace(path, text, mode=path.stat().st_mode & 0o777 if path.exists() else 0o644)
    except (OSError, ValueError) as error:  # ValueError: it is not text any more
        reason = getattr(error, "strerror", None) or error
        raise LockError(f"{path} cannot be written: {reason}") from error


def _replace(path: Path, text: str, *, mode: int) -> None:
    part = part_of(path)
    try:
        with part.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(mode)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def part_of(path: Path) -> Path:
    """Where a file is written until it is whole.

    The name is known before the file is there: when a signal ends the process in the moment in
    which it is made, it is removed all the same.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def _with_entry(text: str, image: LockedImage, *, old: LockedImage | None) -> str:
    lines = text.split("\n")
    found = sections(text)
    values = {"reference": image.reference.tagged, "digest": image.digest or ""}
    if old and old.reference.tagged == image.reference.tagged:
        del values["reference"]  # it may be written in a shorter form
    if old and old.digest == image.digest:
        del values["digest"]
    if image.name in found:
        _change(lines, found[image.name], values, _platform_lines(image))
    else:
        table = [f"[images.{image.name}]"]
        table += [f'{key} = "{value}"' for key, value in values.items()]
        _insert(lines, found, image.name, table + _platform_lines(image))
    return "\n".join(lines)


def _platform_lines(image: LockedImage) -> list[str]:
    lines = []
    for name, platform in sorted(image.platforms.items()):
        parts = {"manifest": platform.manifest, "config": platform.config}
        pairs = ", ".join(f'{key} = "{value}"' for key, value in parts.items() if value)
        lines.append(f'platforms."{name}" = {{ {pairs} }}')
    return lines


def _change(
    lines: list[str], section: Section, values: Mapping[str, str], platforms: list[str]
) -> None:
    """Change the lines of an entry from the last to the first, so that line numbers hold."""
    for key, value in values.items():
        for number in section.keys.get(key, ()):
            lines[number - 1] = _VALUE.sub(rf'\g<1>"{value}"', lines[number - 1])
    old = section.keys.get("platforms", [])
    if [lines[number - 1] for number in old] == platforms:
        return
    place = old[0] - 1 if old else section.end - 1
    for number in reversed(old):
        del lines[number - 1]
    lines[place:place] = platforms


def _insert(lines: list[str], found: Mapping[str, Section], name: str, table: list[str]) -> None:
    """Add an entry: in the order of names where the file has that order, else at the end."""
    names = list(found)
    after = [other for other in names if other > name] if names == sorted(names) else []
    if not after:
        while lines and not lines[-1].strip():
            lines.pop()
        lines += ["", *table, ""]
        return
    place = found[after[0]].header - 1
    while place and lines[place - 1].lstrip().startswith("#"):
        place -= 1  # the comment above an entry belongs to it
    lines[place:place] = [*table, ""]
