"""Filling in ``$NAME`` and ``${NAME:-word}``, and reading files of ``NAME=value``, as Compose does.

Dockerfiles write variables in the same way.
"""

from __future__ import annotations

import functools
import re
from collections import ChainMap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_VARIABLE: Final = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<plain>[A-Za-z_]\w*)"
    r"|\{(?P<name>[A-Za-z_]\w*)(?:(?P<operator>:?[-?+])|\}))",
    re.ASCII,
)
_DEEPEST: Final = 50  # variables in words of variables
_LONGEST: Final = 1 << 20  # lines that repeat the one above grow beyond any memory
_BRACE: Final = re.compile(r"\$\$|\$\{|\}")
# Of a file of NAME=value: blank lines and remarks; a name; what may stand behind its =.
_NOTHING: Final = re.compile(r"(?:\s|#[^\n]*)*")
_LINE_END: Final = r"[^\S\n]*(?:#[^\n]*)?(?:\n|\Z)"
_NAME: Final = re.compile(
    rf"(?:export[^\S\n]+)?(?P<name>[A-Za-z_][\w.-]*)[^\S\n]*(?:(?P<set>[=:])|{_LINE_END})"
)
_VALUE: Final = re.compile(
    rf"""[^\S\n]*"(?P<double>(?:[^"\\]|\\.)*)"{_LINE_END}"""
    rf"""|[^\S\n]*'(?P<single>(?:[^'\\]|\\.)*)'{_LINE_END}"""
    r"""|(?P<plain>[^\S\n]*+(?!["'])[^\n]*)""",
    re.DOTALL,
)
_RAW: Final = re.compile(r"(?P<raw>[^\n]*)")
_REMARK: Final = re.compile(r"\s#.*")
_ESCAPE: Final = re.compile(r"\\([\\\"'nrt$])")
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", "$": "$$"}


class VariableError(ValueError):
    """A variable has no value, or is not written as one.

    Attributes:
        name: The variable; empty where a dollar begins none.
        line: In a file, where it stands.
    """

    def __init__(self, message: str, *, name: str = "", line: int = 0) -> None:
        super().__init__(message)
        self.name = name
        self.line = line


def expand(text: str, variables: Mapping[str, str], *, required: bool = False) -> str:
    """Replace every variable in a text by its value; ``$$`` stands for one dollar.

    ``:-`` and ``-`` give a default, ``:+`` and ``+`` another value for what is set, ``:?`` and
    ``?`` the error for what is not. With the colon, an empty value counts as none. These words may
    have variables themselves, which count only where the word does.

    Raises:
        VariableError: A dollar begins no variable, or one has no value that is `required`.
    """
    parts, at, length = [], 0, len(text)
    while (dollar := text.find("$", at)) >= 0:
        parts.append(text[at:dollar])
        match = _VARIABLE.match(text, dollar)
        if match is None:
            begins = text[dollar : dollar + 2]
            raise VariableError(f"{begins!r} has a $ that is no variable; write $$ for a dollar")
        at, word = match.end(), ""
        if match["operator"]:
            end = _closing(text, at, name=match["name"])
            word, at = text[at:end], end + 1
        value = "$" if match["dollar"] else _value(match, word, variables, required=required)
        parts.append(value)
        length += len(value)
        if length > _LONGEST:
            raise VariableError(f"what its variables stand for is longer than {_LONGEST} bytes")
    return "".join([*parts, text[at:]])


def _closing(text: str, at: int, *, name: str) -> int:
    """Where the brace is that closes a variable whose word begins there."""
    depth = 1
    for match in _BRACE.finditer(text, at):
        depth += {"${": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
        if depth > _DEEPEST:
            break
    raise VariableError(f"variable {name} has no closing brace, or too many in it", name=name)


def _value(match: re.Match[str], word: str, variables: Mapping[str, str], *, required: bool) -> str:
    name, operator = match["plain"] or match["name"], match["operator"] or ""
    value = variables.get(name)
    there = bool(value) if operator.startswith(":") else value is not None
    if operator.endswith("+"):
        return expand(word, variables, required=required) if there else ""
    if there:
        found = value or ""
    elif operator.endswith("?"):
        why = expand(word, variables)
        raise VariableError(f"variable {name} is not set: {why}", name=name)
    else:
        found = expand(word, variables, required=required)
    if required and not found:
        raise VariableError(f"variable {name} has no value", name=name)
    return found


def read_variables(text: str, variables: Mapping[str, str], *, raw: bool = False) -> dict[str, str]:
    """The variables of an ``.env`` or an ``env_file``, by the rules of the Compose specification.

    Values may be in quotes; outside of single quotes, variables are filled in: those given, or of
    a line above. A name without ``=`` has the value that is given, or is left out.

    Args:
        text: The file's.
        variables: Name to value.
        raw: Whether everything after ``=`` is the value, as it is.

    Raises:
        VariableError: A line is none. The message does not have its value, which may be a secret.
    """
    found: dict[str, str] = {}
    known = ChainMap(dict(variables), found)
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    at = _skip(text, 0)
    while at < len(text):
        name = _NAME.match(text, at)
        value = name and name["set"] and (_RAW if raw else _VALUE).match(text, name.end())
        line = functools.partial(text.count, "\n", 0, at)
        if not name or (name["set"] and not value):
            shown, equals, _ = text[at:].partition("\n")[0].partition("=")
            shown = f"{shown.strip()}{equals and '=…'}"
            raise VariableError(f"expected NAME=value, not {shown!r}", line=line() + 1)
        key = name["name"]
        if value:
            try:
                found[key] = _meant(value, known)
            except VariableError as error:
                raise VariableError(f"{key}: {error}", line=line() + 1) from None
        elif key in variables:
            found[key] = variables[key]
        at = _skip(text, (value or name).end())
    return found


def _skip(text: str, at: int) -> int:
    match = _NOTHING.match(text, at)
    return match.end() if match else at


def _meant(value: re.Match[str], variables: Mapping[str, str]) -> str:
    [(kind, text)] = [item for item in value.groupdict().items() if item[1] is not None]
    if kind == "raw":
        return text
    if kind == "single":
        return text.replace("\\'", "'")
    if kind == "double":
        text = _ESCAPE.sub(lambda it: _ESCAPES.get(it[1], it[1]), text)
    else:
        text = _REMARK.sub("", text).strip()
    return expand(text, variables)
