"""One thing the daemon holds for a session."""

from __future__ import annotations

KINDS = ("container", "network", "volume", "image")  # in the order they can be removed


class Thing:
    """A container, network, volume or image.

    Attributes:
        id: What a removal takes.
        name: What a person recognises.
        reason: Why the last attempt to remove it failed; empty when it did not.
    """

    __slots__ = ("id", "kind", "name", "reason")

    def __init__(self, kind: str, id: str, name: str) -> None:  # noqa: A002  # Docker's word
        self.kind = kind
        self.id = id
        self.name = name
        self.reason = ""


class SilentError(OSError):
    """The daemon gave no usable answer."""
