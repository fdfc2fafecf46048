"""One thing the daemon holds for a session, and how it is told from what looks like one."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

KINDS = ("container", "network", "volume", "image")  # in the order they can be removed
_NAME = "dev.orchestrator.name"  # as in engine/api.py, which cannot be imported here
_SESSION = "dev.orchestrator.session"
_BEGINNING = 8  # of the session's id, in every name


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


def own_name(kind: str, names: Collection[str], labels: Mapping[str, str]) -> str | None:
    """The name under which this was created in the session of its labels; None when it was not.

    Labels prove little. `docker commit` copies a container's to an image, a build takes over those
    of its base, and `docker run` gives the image's to a container: those are somebody else's. Only
    what carries its own name in its labels is ours, so what is renamed is given away.

    Args:
        kind: Of `KINDS`.
        names: Every name it has; all tags of an image, in full.
        labels: What it carries.
    """
    name = labels.get(_NAME)
    if name is not None:
        going = kind == "container" and not names  # Docker frees the name before the rest is gone
        return name if name in names or going else None
    # Made by a version that did not label names yet. Networks and volumes inherit no labels; of the
    # others, the name itself tells the session.
    session = labels.get(_SESSION, "")
    for name in names:
        if kind in ("network", "volume") or (session and session[:_BEGINNING] in name):
            return name
    return None
