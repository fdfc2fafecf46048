"""Reading a Compose file: entries that know where they stand, and what YAML makes of a text."""

from __future__ import annotations

import contextlib
import functools
import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from orchestrator.errors import DeclarationError, did_you_mean
from orchestrator.services.once import driver
from orchestrator.services.options import in_bytes, is_text
from orchestrator.variables import VariableError, expand

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Value = TypeVar("Value")
Usual = TypeVar("Usual")

_TAG: Final = "tag:yaml.org,2002:"
_TAGS: Final = [f"{_TAG}{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")]
_WORDS: Final = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NUMERIC: Final = re.compile(r"[-+]?\.?[0-9][0-9a-zA-Z_.+-]*")
_LARGEST: Final = 256 << 10  # bytes of a file, which take a second to read
_MOST: Final = 20_000  # entries, each counted as often as aliases repeat it
_FLAGS: Final = {
    **dict.fromkeys(("true", "yes", "on", "y", "1"), True),
    **dict.fromkeys(("false", "no", "off", "n", "0"), False),
}
_NUMBER: Final = re.compile(r"-?[0-9]{1,18}(\.[0-9]*)?")
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:us|ms|s|m|h))+")
_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Source:
    """A Compose file, and the variables that count in it."""

    file: Path
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One value of a Compose file, and where it stands.

    Texts have their variables filled in when they are read, so what no test uses need not be set.
    A wrong value is a DeclarationError with file, line, service and key.
    """

    value: Any
    source: Source
    line: int
    path: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """File, line, service and key."""
        path, place = list(self.path), f"{self.source.file}:{self.line}:"
        if path[:1] == ["services"] and path[1:]:
            place += f" service {path[1]!r}:"
            path = path[2:]
        key = ".".join(path).replace(".[", "[")
        return f"{place} {key!r}" if key else place

    def error(self, problem: str) -> DeclarationError:
        """The error that says what is wrong here; the problem goes on after the key."""
        return DeclarationError(f"{self.place} {problem}")

    def mapping(self) -> Mapping[str, Entry]:
        """Its entries by key."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise self.error(f"is {self._kind()}; expected a mapping")
        return self.value

    def get(self, key: str) -> Entry | None:
        """The entry of a key; None where there is none, or nothing in it."""
        found = self.mapping().get(key)
        return None if found is None or found.value is None else found

    def part(self, key: str) -> Entry:
        """The entry of a key; an empty one where there is none."""
        return self.get(key) or replace(self, value=None)

    def read(self, key: str, how: Callable[[Entry], Value], usual: Usual) -> Value | Usual:
        """What the entry of a key says, read so; the usual value where there is none."""
        found = self.get(key)
        return usual if found is None else how(found)

    def flag_of(self, key: str, *, usual: bool = False) -> bool:
        """Whether what a key says is true."""
        return self.read(key, Entry.flag, usual)

    def must(self, key: str) -> Entry:
        """The entry of a key that has to be there."""
        found = self.get(key)
        if found is None:
            raise self.error(f"has no {key!r}, and needs one")
        return found

    def only(self, *keys: str) -> Entry:
        """Refuse every other key, except for extensions (``x-…``)."""
        for key, entry in self.mapping().items():
            if key not in keys and not key.startswith("x-"):
                hint = did_you_mean(key, keys, otherwise="supported are")
                raise entry.error(f"is not supported{hint}")
        return self

    def long(self, key: str) -> Entry:
        """Its long form: what is no mapping is the value of this key."""
        return self if isinstance(self.value, dict) else replace(self, value={key: self})

    def by_name(self) -> Mapping[str, Entry]:
        """Its entries by key; a list of names stands for keys with nothing in them."""
        if isinstance(self.value, dict):
            return self.value
        return {it.text(): replace(it, value=None) for it in self.entries()}

    def entries(self) -> Sequence[Entry]:
        """Its entries; a single value is a list of one."""
        if self.value is None:
            return []
        if isinstance(self.value, dict):
            raise self.error("is a mapping; expected a list")
        return self.value if isinstance(self.value, list) else [self]

    def entries_of(self, key: str) -> Sequence[Entry]:
        """The entries of the list of a key; none where there is none."""
        return self.part(key).entries()

    def text(self) -> str:
        """Its text; a number or a truth value as docker compose writes it."""
        value = self.value
        if isinstance(value, str):
            try:
                value = expand(value, self.source.variables)
            except VariableError as error:
                raise self.error(f"cannot be filled in: {error}") from None
            if not is_text(value, empty=True):
                raise self.error("has a character in it that no file name or command may have")
            return value
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        if isinstance(value, (int, float)):
            return str(value)
        raise self.error(f"is {self._kind()}; expected text")

    def flag(self) -> bool:
        """Whether it is true."""
        found = _FLAGS.get(self.text().lower())
        if found is None:
            raise self.error(f"is {self.text()!r}; expected true or false")
        return found

    def number(self) -> float:
        """Its number."""
        if not _NUMBER.fullmatch(self.text()):
            raise self.error(f"is {self.text()!r}, not a number")
        return float(self.text())

    def whole(self, *, least: int = 0) -> int:
        """Its whole number, if it is not less."""
        number = self.number()
        if not number.is_integer() or number < least:
            raise self.error(f"is {self.text()!r}; expected a whole number, at least {least}")
        return int(number)

    def size(self) -> int:
        """Its bytes: a number, or text such as ``64m``."""
        size = in_bytes(self.text())
        if size < 0:
            raise self.error(f"is {self.text()!r}; expected bytes, or text such as '64m'")
        return size

    def seconds(self) -> float:
        """Its duration, such as ``1m30s``."""
        text = self.text()
        if not _DURATION.fullmatch(text):
            raise self.error(f"is {text!r}; expected a duration such as '1m30s'")
        parts = re.findall(r"([\d.]+)([a-z]+)", text)
        return sum(float(number) * _UNITS[unit] for number, unit in parts)

    def words(self) -> Sequence[str]:
        """Its arguments: a list, or a text that is split as a shell does."""
        if isinstance(self.value, list):
            return [entry.text() for entry in self.value]
        try:
            return shlex.split(self.text())
        except ValueError as error:
            raise self.error(f"cannot be split into words: {error}") from None

    def pairs(self, *separators: str) -> Mapping[str, Entry | None]:
        """A mapping, or a list of ``NAME=value``; None for a name without a value."""
        if not isinstance(self.value, list):
            return {
                key: None if entry.value is None else entry for key, entry in self.mapping().items()
            }
        found: dict[str, Entry | None] = {}
        for entry in self.value:
            text = entry.text()
            name, equals, value = text.partition(next((s for s in separators if s in text), "="))
            if not name:
                raise entry.error(f"is {text!r}, which has no name")
            found[name] = entry.replaced(value) if equals else None
        return found

    def replaced(self, text: str) -> Entry:
        """The same place with another text, whose variables are filled in already."""
        return Entry(text.replace("$", "$$"), self.source, self.line, self.path)

    def file(self) -> Path:
        """Its path of this machine, which may not be there; a relative one is below the file's."""
        try:
            path = self.source.file.parent / Path(self.text()).expanduser()
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.stat()  # since Python 3.14 `exists` does not tell why it can never be there
        except (RuntimeError, OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise self.error(f"is {self.text()!r}, which leads nowhere: {why}") from None
        return path

    def _kind(self) -> str:
        names = {dict: "a mapping", list: "a list", type(None): "empty"}
        return names.get(type(self.value), repr(self.value))


def read_file(source: Source) -> Entry:
    """All that a file says; without PyYAML a MissingDriverError."""
    yaml = driver("yaml", extra="compose")
    try:
        content = source.file.read_bytes()
    except OSError as error:
        raise DeclarationError(f"{source.file} cannot be read: {error.strerror}") from error
    if len(content) > _LARGEST:
        raise DeclarationError(f"{source.file} is larger than {_LARGEST >> 10} KiB")
    try:
        node = yaml.compose(content, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{source.file}:{mark.line + 1}" if mark else str(source.file)
        why = getattr(error, "problem", None) or error
        raise DeclarationError(f"{place}: is not YAML that can be read: {why}") from error
    if node is None:
        raise DeclarationError(f"{source.file} is empty")
    return _Builder(source).entry(node, (), frozenset())


class _Builder:
    """Makes entries of YAML's nodes: merged, without repeated keys, and not without end."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._left = _MOST

    def entry(self, node: Any, path: tuple[str, ...], inside: frozenset[int]) -> Entry:
        made = functools.partial(Entry, source=self._source, line=_line(node), path=path)
        self._left -= 1
        if self._left < 0:
            raise made(None).error(f"is too much: aliases make more than {_MOST} entries of it")
        if id(node) in inside:
            raise made(None).error("is an alias of what it stands in")
        if node.tag not in _TAGS:
            raise made(None).error(f"has the tag {node.tag!r}, which is not supported")
        if node.id == "scalar":
            return made(_plain(node.value) if node.style is None else node.value)
        inside |= {id(node)}
        if node.id == "mapping":
            return made(self._mapping(node, path, inside))
        return made(
            [self.entry(it, (*path, f"[{at}]"), inside) for at, it in enumerate(node.value)]
        )

    def _mapping(
        self, node: Any, path: tuple[str, ...], inside: frozenset[int]
    ) -> dict[str, Entry]:
        own: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            at = Entry(None, self._source, _line(key), (*path, str(key.value)[:40]))
            if key.id != "scalar":
                raise at.error("is no key: expected a text")
            if key.value in lines:
                raise at.error(f"is there twice, also on line {lines[key.value]}")
            lines[key.value] = at.line
            if key.value == "<<" and key.style is None:
                for source in value.value if value.id == "sequence" else [value]:
                    more = self.entry(source, path, inside)
                    if not isinstance(more.value, dict):
                        raise at.error("merges what is no mapping")
                    merged = {**more.value, **merged}
            else:
                entry = self.entry(value, (*path, key.value), inside)
                own[key.value] = replace(entry, line=at.line)
        return {**merged, **own}


def _line(node: Any) -> int:
    line: int = node.start_mark.line + 1
    return line


def _plain(text: str) -> object:
    """What docker compose takes a text without quotes for; in PyYAML's rules 22:22 is 1342."""
    if text in _WORDS:
        return _WORDS[text]
    if _NUMERIC.fullmatch(text):
        for read in (lambda: int(text, 0), lambda: int(text, 8), lambda: float(text)):
            with contextlib.suppress(ValueError):
                return read()
    return text
