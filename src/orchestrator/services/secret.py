"""Text that does not show when a mapping or an object that holds it is printed."""

from __future__ import annotations


class Secret(str):
    """A password: the text itself to whom it is given, and ``'***'`` where its repr is shown.

    Drivers log their settings, and test failures show values; both print what is in a mapping by
    its repr.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"
