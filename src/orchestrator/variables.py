"""Filling in ``$NAME`` and ``${NAME:-word}``, as Dockerfiles and Compose files write them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_VARIABLE: Final = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<plain>[A-Za-z_]\w*)"
    r"|\{(?P<name>[A-Za-z_]\w*)(?:(?P<operator>:?[-?+])(?P<word>[^}]*))?\}|(?P<bad>))"
)


class VariableError(ValueError):
    """A variable has no value, or is not written as one.

    Attributes:
        name: The variable; empty where a dollar begins none.
    """

    def __init__(self, message: str, *, name: str = "") -> None:
        super().__init__(message)
        self.name = name


def expand(text: str, variables: Mapping[str, str], *, required: bool = False) -> str:
    """Replace every variable in a text by its value; ``$$`` stands for one dollar.

    ``:-`` and ``-`` give a default, ``:+`` and ``+`` another value for what is set, ``:?`` and
    ``?`` the error for what is not. With the colon, an empty value counts as none.

    Raises:
        VariableError: A dollar begins no variable, or one has no value that is `required`.
    """
    return _VARIABLE.sub(lambda match: _value(match, variables, required=required), text)


def _value(match: re.Match[str], variables: Mapping[str, str], *, required: bool) -> str:
    if match["dollar"]:
        return "$"
    name = match["plain"] or match["name"]
    if name is None:
        raise VariableError(f"{match.string!r} has a $ that is no variable; write $$ for a dollar")
    operator, word = match["operator"] or "", match["word"] or ""
    value = variables.get(name)
    there = bool(value) if operator.startswith(":") else value is not None
    if operator.endswith("+"):
        return word if there else ""
    if operator.endswith("?") and not there:
        raise VariableError(f"variable {name} is not set: {word}", name=name)
    found = value or "" if there else word
    if required and not found:
        raise VariableError(f"variable {name} has no value", name=name)
    return found
