"""What makes a class attribute a declaration: frozen, checked, and a descriptor."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Any, Final, Self, cast, dataclass_transform

from orchestrator.errors import DeclarationError
from orchestrator.services import options

HANDLES: Final = "_orchestrator_handles"
"""Where a test class, and each test, keeps its running services by declaration."""


@dataclass_transform(
    kw_only_default=True,
    frozen_default=True,
    eq_default=False,
    field_specifiers=(field, options.private),
)
class Declaration:
    """Makes every subclass a frozen dataclass, and its unknown options our error."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(frozen=True, kw_only=True, eq=False, repr=False)(cls)

    def __new__(cls, *args: object, **given: object) -> Self:
        """Check the names of the options, before the dataclass would raise a TypeError."""
        known = [item.name for item in dataclasses.fields(cls) if item.init]  # type: ignore[arg-type]
        if args:
            raise DeclarationError(
                f"{cls.__name__} takes options by name only, such as {known[0]}={args[0]!r}"
            )
        for name in given:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
                raise DeclarationError(f"{cls.__name__} has no option {name!r}; {hint}")
        return super().__new__(cls)

    _declared_as = ""  # no annotation: it is no option, and no copy needs it

    def __repr__(self) -> str:
        """Show what was asked for; the rest is as ever."""
        asked = (
            f"{item.name}={value!r}"
            for item in dataclasses.fields(self)  # type: ignore[arg-type]
            if item.repr and (value := getattr(self, item.name)) != _default(item)
        )
        return f"{type(self).__name__}({', '.join(asked)})"

    def __get__(self, instance: object | None, owner: type | None = None) -> Self:
        """Hand out the running service of this test, else of its class, else the declaration."""
        for place in (instance, owner):
            handle = getattr(place, "__dict__", {}).get(HANDLES, {}).get(self)
            if handle is not None:
                return cast("Self", handle)
        return self

    def __set_name__(self, owner: type, name: str) -> None:
        object.__setattr__(self, "_declared_as", f"{owner.__name__}.{name}")

    @property
    def declared_as(self) -> str:
        """Class and attribute; empty when it stands in no class's body."""
        return self._declared_as


def _default(item: dataclasses.Field[Any]) -> object:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return item.default
