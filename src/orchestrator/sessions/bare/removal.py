"""Removing what a session created: whose a thing is, and the loop that removes until all is gone.

The loop ends only with a listing that came back empty: a removal that was accepted proves nothing,
and a create whose client vanished may still be on its way. Brief refusals of the daemon (an active
endpoint, a busy device, a removal in progress) are tried again.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from .http_reaper import HttpReaper


KINDS = ("container", "network", "volume", "image")  # in the order they can be removed
ANSWER_SECONDS = 30.0  # for one answer, where nobody waits for the removal
_LATE_SECONDS = 60.0  # in which a create that was sent and never answered may still succeed
_NAME = "dev.orchestrator.name"  # as in engine/, which cannot be imported here
_KEPT = "dev.orchestrator.kept"
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5
_SILENT_ROUNDS = 3
_HANGING = 1.0  # seconds; a connection that is cut takes less


class Thing:
    """A container, network, volume or image.

    Attributes:
        id: What a removal takes; of an image its tag, with which nobody else's tag of it goes.
        status: Docker's word for a listed container, such as ``running``; empty for the rest.
        image: What a listed container runs; empty for the rest.
        kept: Whether it outlives its owner, because its class has failed.
        reason: Why the last attempt to remove it failed; empty when it did not.
    """

    __slots__ = ("id", "image", "kept", "kind", "labels", "name", "reason", "status")

    def __init__(self, kind: str, id: str, name: str) -> None:  # noqa: A002  # Docker's word
        self.kind = kind
        self.id = id
        self.name = name
        self.labels: dict[str, str] = {}
        self.status = self.image = self.reason = ""
        self.kept = False


class SilentError(OSError):
    """The daemon gave no usable answer."""


def own_name(kind: str, names: Collection[str], labels: Mapping[str, str]) -> str | None:
    """The name under which this was created in the session of its labels; None when it was not.

    Labels prove little. `docker commit` copies a container's to an image, a build takes over those
    of its base, and `docker run` gives the image's to a container: those are somebody else's. Only
    what carries its own name in its labels is ours, so what is renamed is given away.

    ``names`` are all that it has; of an image all tags, in full.
    """
    name = labels.get(_NAME)
    going = kind == "container" and not names  # Docker frees the name before the rest is gone
    return name if name in names or going else None


def mark_kept(things: Sequence[Thing]) -> None:
    """Note what outlives its owner: what volumes that are made for that name, and these."""
    markers = [thing for thing in things if _KEPT in thing.labels]
    named = {name for thing in markers for name in thing.labels[_KEPT].split()}
    for thing in things:
        thing.kept = thing in markers or f"{thing.kind}:{thing.name}" in named


def remove_until_quiet(
    reaper: HttpReaper,
    *,
    seconds: float,
    quiet: float = 0.0,
    made: Mapping[str, str] | None = None,
    intents: Iterable[str] = (),
    wait_for_daemon: bool = False,
) -> tuple[list[str], list[Thing]]:
    """Remove everything a reaper lists, within a bounded time.

    Args:
        reaper: Lists and removes the things of one session, say.
        seconds: For all of it.
        quiet: Seconds in which nothing more may appear.
        made: Name and kind of what is known to be made: what the daemon does not list goes by that.
        intents: Names of things whose create was announced, and whose end was not. While one of
            them was not seen, a minute must be quiet.
        wait_for_daemon: Whether a daemon that is away or hangs is waited for. Else it is a
            `SilentError`, but a connection that is cut is tried again.

    Returns:
        The names of all things seen, and the things that are still there.
    """
    began = changed = time.monotonic()
    missing = set(intents)
    unlisted = [Thing(kind, name, name) for name, kind in (made or {}).items()]
    seen: list[str] = []
    pause = _FIRST_PAUSE
    silent = 0  # rounds in a row
    while True:
        asked = time.monotonic()
        late = asked - began > seconds
        try:
            things = reaper.listed()
            seen += [thing.name for thing in things]
            missing.difference_update(seen)
            hidden = [thing for thing in unlisted if thing.kind in reaper.refused]
            if things or (reaper.uncertain and wait_for_daemon):
                changed = time.monotonic()
            things += [thing for thing in hidden if thing.name not in missing]
            needed = _LATE_SECONDS if missing else quiet
            if late or (not things and asked - changed >= needed):
                return seen, things
            reaper.remove([*things, *(thing for thing in hidden if thing.name in missing)])
            silent = 0
            gone = {thing for thing in hidden if not thing.reason and thing.name not in missing}
            unlisted = [thing for thing in unlisted if thing not in gone]
            if things and not any(thing.reason for thing in things):
                pause = _FIRST_PAUSE
                continue
        except Exception as error:  # away, hanging, talking nonsense: it may come back
            changed = time.monotonic()
            silent += 1
            silenced = silent == _SILENT_ROUNDS or changed - asked > _HANGING
            if late if wait_for_daemon else silenced or not isinstance(error, SilentError):
                raise
        time.sleep(pause)
        pause = min(1.5 * pause, _LONGEST_PAUSE)
