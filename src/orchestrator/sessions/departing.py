"""What is being removed of classes that are over, while their process goes on to the next.

The watchdog does it, in children of its own, and answers for each thing. No thread here: a test may
fork, and patch the clock or sockets. What no watchdog answers for is removed by whoever waits.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.sessions.bare.http_reaper import KnownThings
from orchestrator.sessions.bare.removal import (
    ANSWER_SECONDS,
    SilentError,
    Thing,
    remove_until_quiet,
)
from orchestrator.sessions.watchdog_start import WatchdogError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from orchestrator.sessions.watchdog_start import Watchdog

_SECONDS: Final = 60.0  # for a watchdog to answer at all; somebody may have stopped it
_OWN_SECONDS: Final = 5.0  # for what does not go at the first attempt, when the watchdog is gone
_POLL: Final = 0.02  # seconds between two looks at several watchdogs


@dataclass(frozen=True, kw_only=True)
class _Departing:
    thing: Thing
    test_class: str
    watchdog: Watchdog
    given_up_at: float


class Departing:
    """The things of one session that its watchdogs were told to remove.

    Args:
        way: How the daemon is reached, as `Endpoint.way` has it.
        forget: Called with the name of what is gone.
    """

    def __init__(self, way: Sequence[str], *, forget: Callable[[str], None]) -> None:
        self._way = way
        self._forget = forget
        self._lock = threading.RLock()
        self._things: dict[str, _Departing] = {}
        self._left: dict[str, list[Thing]] = {}  # by class: what would not go

    def hand_over(
        self, things: Sequence[Thing], *, to: Watchdog, test_class: str, seconds: float
    ) -> bool:
        """Have a watchdog remove some things; whether it has taken that.

        Args:
            things: What is removed, the containers first.
            to: The watchdog.
            test_class: What they are of.
            seconds: For what does not go at the first attempt.
        """
        with self._lock:
            self._listen()
            until = time.monotonic() + seconds + _SECONDS
            try:
                named = " ".join(f"{thing.kind}:{thing.name}" for thing in things)
                to.send(f"~{seconds} {named}")
            except WatchdogError:
                return False
            for thing in things:
                self._things[thing.name] = _Departing(
                    thing=thing, test_class=test_class, watchdog=to, given_up_at=until
                )
        return True

    @property
    def under_way(self) -> Mapping[str, str]:
        """Name and kind of what no watchdog has answered for; takes no lock."""
        return {name: it.thing.kind for name, it in self._things.copy().items()}

    def awaited(
        self, *, kinds: Collection[str], test_class: str | None = None
    ) -> dict[str, list[Thing]]:
        """Wait until things of these kinds are gone; by class, what would not go, told once.

        Args:
            kinds: Of `KINDS`; of a class of which something would not go, all.
            test_class: Only what is of this class.
        """
        with self._lock:
            while waiting := [
                it
                for it in self._things.values()
                if test_class in (None, it.test_class)
                and (it.thing.kind in kinds or it.test_class in self._left)
            ]:
                late = [it for it in waiting if time.monotonic() > it.given_up_at]
                self._remove(late)
                one = len({it.watchdog for it in waiting}) == 1
                self._listen(seconds=1.0 if one else _POLL)
            classes = [name for name in self._left if test_class in (None, name)]
            return {name: self._left.pop(name) for name in classes}

    def _listen(self, *, seconds: float = 0.0) -> None:
        for watchdog in {it.watchdog: None for it in self._things.values()}:
            try:
                lines = watchdog.heard(seconds=seconds)
            except WatchdogError:
                self._remove([it for it in self._things.values() if it.watchdog is watchdog])
                continue
            for line in lines:
                name, _, reason = line[1:].partition(" ")
                if name in self._things:
                    it = self._things.pop(name)
                    it.thing.reason = reason
                    self._over(it, gone=line[0] == "-")

    def _remove(self, departing: Sequence[_Departing]) -> None:
        """Remove what no watchdog answers for."""
        if not departing:
            return
        known = KnownThings(self._way, [it.thing for it in departing], timeout=ANSWER_SECONDS)
        with contextlib.suppress(SilentError):
            remove_until_quiet(known, seconds=_OWN_SECONDS)
        left = known.listed()
        for it in departing:
            del self._things[it.thing.name]
            self._over(it, gone=it.thing not in left)

    def _over(self, it: _Departing, *, gone: bool) -> None:
        if gone:
            self._forget(it.thing.name)
        else:
            self._left.setdefault(it.test_class, []).append(it.thing)
