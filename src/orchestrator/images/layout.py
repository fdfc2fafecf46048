"""Where the entries of a lock file stand in its text: for errors with a line, and for editing.

`tomllib` keeps no positions and no comments. A lock file is a flat file (one table per entry, one
key per line), so a scan by line finds both. What the scan cannot see (an unusual layout) costs a
line number in an error, never a wrong reading: values always come from `tomllib`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

_HEADER: Final = re.compile(r"""^\s*\[\s*images\s*\.\s*(["']?)([^"'\]\s.]+)\1\s*\]\s*(?:#.*)?$""")
_OTHER_HEADER: Final = re.compile(r"^\s*\[")
_KEY: Final = re.compile(r"""^\s*(["']?)([A-Za-z0-9_-]+)\1\s*[.=]""")


@dataclass(frozen=True, kw_only=True)
class Section:
    """The lines of one entry. Line numbers count from 1.

    Attributes:
        header: The line of ``[images.NAME]``.
        end: The line after its last key.
        keys: Key to the lines on which it is set, in order; ``platforms`` may have several.
    """

    name: str
    header: int
    end: int
    keys: dict[str, list[int]] = field(default_factory=dict)


def sections(text: str) -> dict[str, Section]:
    """The entries by name, in the order of the file."""
    found: dict[str, Section] = {}
    name, header, end = "", 0, 0
    keys: dict[str, list[int]] = {}

    def close() -> None:
        if name:
            found.setdefault(name, Section(name=name, header=header, end=end, keys=keys))

    for number, line in enumerate(text.split("\n"), start=1):
        if match := _HEADER.match(line):
            close()
            name, header, end, keys = match[2], number, number + 1, {}
        elif _OTHER_HEADER.match(line):
            close()
            name = ""
        elif name and (match := _KEY.match(line)):
            keys.setdefault(match[2], []).append(number)
            end = number + 1
    close()
    return found


def line_of(text: str, *, entry: str, key: str | None = None) -> int | None:
    """The line of an entry or of one of its keys, or None when the scan does not see it."""
    section = sections(text).get(entry)
    if section is None:
        return None
    return section.keys[key][0] if key in section.keys else section.header
