"""Listing and removing what sessions created, through docker-py.

For test classes, `reap` and the sweep; and for daemons behind TLS or ssh, which raw HTTP does not
reach, also in exit handlers and in the watchdog.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from orchestrator.engine import Endpoint, connect
from orchestrator.engine.api import Label
from orchestrator.errors import EngineError
from orchestrator.sessions.bare.http_reaper import HttpReaper, parse_address
from orchestrator.sessions.bare.removal import (
    ANSWER_SECONDS,
    KINDS,
    SilentError,
    Thing,
    own_name,
    remove_after_death,
    remove_until_quiet,
)
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from orchestrator.engine.api import Listed
    from orchestrator.engine.docker import Engine
    from orchestrator.sessions.bare.removal import Reaper

_AT_ONCE: Final = 16
_FAILED: Final = 500
_DEFAULT_PORT: Final = 2375
_SESSION_SECONDS: Final = 5.0
_SESSION_QUIET: Final = 0.25  # a create whose client vanished appears 11 to 180 ms later


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What was created under some labels and exists at one moment.

    Attributes:
        things: Each by the name it was created under; an image's id is its tag, with which nobody
            else's tag of it is removed.
        refused: The kinds that the daemon does not list, and its reasons: a filter before its
            socket may forbid it.
        uncertain: Whether it may list them when it is asked again.
    """

    things: Sequence[Listed]
    refused: Mapping[str, str]
    uncertain: bool


def snapshot(engine: Engine, wanted: Mapping[str, str]) -> Snapshot:
    """List what was created under these labels, without what only inherited them.

    Raises:
        EngineError: The daemon does not answer, or lists nothing at all.
    """
    things = []
    refused: dict[str, EngineError] = {}
    for kind in KINDS:
        try:
            found = engine.labelled(wanted, kinds=[kind])
        except EngineError as error:
            if error.status is None:
                raise
            refused[kind] = error
            continue
        for item in found:
            name = own_name(kind, item.names, item.labels)
            if name is not None:
                things.append(replace(item, name=name, id=name if kind == "image" else item.id))
    if len(refused) == len(KINDS):
        raise refused[KINDS[0]]
    return Snapshot(
        things=things,
        refused={kind: str(error) for kind, error in refused.items()},
        uncertain=any((error.status or 0) >= _FAILED for error in refused.values()),
    )


def remove_things(engine: Engine, things: Sequence[Thing], *, seconds: float) -> list[Thing]:
    """Remove these, again and again while the daemon refuses: it often does so for a moment only.

    Args:
        engine: The daemon.
        things: What to remove, in any order.
        seconds: For what does not go at the first attempt. A daemon that does not answer is not
            waited for: who cleans up later finds what is left.

    Returns:
        What is still there; the ``reason`` of each says why.
    """
    known = _KnownThings(engine, things)
    with contextlib.suppress(SilentError):
        remove_until_quiet(known, seconds=seconds)
    return known.listed()


def remove_session(engine: Engine, session: str) -> list[Thing]:
    """Remove everything of one session, whose owner the caller knows to be dead or done.

    It waits a moment for creates that were still under way; that session's watchdog waits longer.

    Returns:
        What is still there; the ``reason`` of each says why.

    Raises:
        EngineError: The daemon does not answer, or lists nothing at all.
    """
    reaper = EngineReaper(engine, session, at_once=_AT_ONCE)
    try:
        _seen, left = remove_until_quiet(reaper, seconds=_SESSION_SECONDS, quiet=_SESSION_QUIET)
    except SilentError as error:
        raise EngineError(str(error)) from error
    return left


def reaper_for(
    session: str, *, endpoint: Endpoint, timeout: float, until: float = math.inf
) -> Reaper:
    """A reaper of one session that shares no client, lock or thread with the running program.

    Args:
        session: Whose things it removes.
        endpoint: The daemon.
        timeout: Seconds for one answer.
        until: When to stop waiting for any, on the clock of `time.monotonic`.
    """
    address = raw_address(endpoint)
    if address:
        label = f"{Label.SESSION}={session}"
        return HttpReaper(parse_address(address), label, timeout=timeout, until=until)
    engine = connect(Settings(engine_timeout=timeout), endpoint=endpoint)
    return EngineReaper(engine, session, until=until)


def raw_address(endpoint: Endpoint) -> str | None:
    """The daemon's socket or ``host:port``; None when it takes TLS or ssh to speak to it."""
    if endpoint.socket:
        return str(Path(endpoint.socket).absolute())
    url = urlsplit(endpoint.url)
    if endpoint.tls is None and url.scheme in ("tcp", "http"):
        return f"{url.hostname}:{url.port or _DEFAULT_PORT}"
    return None


def main(arguments: Sequence[str]) -> None:
    """Remove what a session left: the watchdog becomes this process where it takes TLS or ssh.

    Args:
        arguments: The session's endpoint (JSON), its label, and the names its owner was creating.
    """
    where, label, *intents = arguments
    values = json.loads(where)
    folder = values["tls"] and Path(values["tls"])
    endpoint = Endpoint(url=values["url"], tls=folder, verify=values["verify"])
    session = label.rpartition("=")[2]
    reaper = reaper_for(session, endpoint=endpoint, timeout=ANSWER_SECONDS)
    remove_after_death(reaper, intents)


class EngineReaper:
    """Removes everything of one session.

    Args:
        engine: The daemon.
        session: The session's id.
        until: When to begin no further removal, on the clock of `time.monotonic`.
        at_once: How many removals run side by side; with one no thread is started, which an exit
            handler could not.
    """

    def __init__(
        self, engine: Engine, session: str, *, until: float = math.inf, at_once: int = 1
    ) -> None:
        self.refused: dict[str, str] = {}
        self.uncertain = False
        self._engine = engine
        self._session = session
        self._until = until
        self._at_once = at_once

    def listed(self) -> list[Thing]:
        """Everything of the session.

        Raises:
            SilentError: The daemon is away, hangs, or lists nothing.
        """
        try:
            found = snapshot(self._engine, {Label.SESSION: self._session})
        except EngineError as error:
            raise SilentError(str(error)) from error
        self.refused, self.uncertain = dict(found.refused), found.uncertain
        return [Thing(item.kind, item.id, item.name) for item in found.things]

    def remove(self, things: Iterable[Thing]) -> None:
        """Try once to remove these; the ``reason`` of each says why it did not go, if so."""
        remove = partial(_remove_once, self._engine, until=self._until)
        _by_kind(things, remove, at_once=self._at_once)


class _KnownThings:
    """A reaper of things that are known; each is gone when its removal succeeded."""

    def __init__(self, engine: Engine, things: Iterable[Thing]) -> None:
        self.refused: dict[str, str] = {}
        self.uncertain = False
        self._remove = partial(_remove_once, engine, until=math.inf)
        self._left = list(things)

    def listed(self) -> list[Thing]:
        """What did not go yet."""
        return self._left

    def remove(self, things: Iterable[Thing]) -> None:
        """Try once to remove these.

        Raises:
            SilentError: No removal was answered.
        """
        answered = _by_kind(things, self._remove, at_once=_AT_ONCE)
        self._left = [thing for thing in self._left if thing.reason]
        if not answered:
            raise SilentError(self._left[0].reason)


def _by_kind(things: Iterable[Thing], remove: Callable[[Thing], bool], *, at_once: int) -> bool:
    """Remove all of a kind at once, containers first; whether any removal was answered."""
    answered = False
    with contextlib.ExitStack() as stack:
        run: Callable[..., Iterable[bool]] = map
        if at_once > 1:
            pool = ThreadPoolExecutor(at_once, thread_name_prefix="orchestrator-remove")
            run = stack.enter_context(pool).map
        for _kind, group in groupby(sorted(things, key=_order), key=_order):
            answered |= any(list(run(remove, group)))
    return answered


def _order(thing: Thing) -> int:
    return KINDS.index(thing.kind)


def _remove_once(engine: Engine, thing: Thing, *, until: float) -> bool:
    """Try once; whether the daemon answered."""
    if time.monotonic() > until:
        thing.reason = "no time was left"
        return False
    removals: dict[str, Callable[[str], None]] = {
        "container": engine.remove_container,
        "network": engine.remove_network,
        "volume": engine.remove_volume,
        "image": engine.images.remove,
    }
    thing.reason = ""
    try:
        removals[thing.kind](thing.id)
    except EngineError as error:
        thing.reason = str(error)
        return error.status is not None
    return True
