"""A session: one process, and everything it has the daemon create.

A process owns its session before it creates anything. Every create then carries the session's
labels, is announced to the watchdog before it is sent, and passes a gate that closes when the
process begins to clean up.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from orchestrator.engine.api import Label
from orchestrator.errors import EngineError, OrchestratorError
from orchestrator.sessions.identity import this_process
from orchestrator.sessions.watchdog import (
    Departing,
    Supervisor,
    Watchdog,
    WatchdogError,
    start_watchdog,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from orchestrator.engine import Endpoint

_LOG: Final = logging.getLogger(__name__)
_UNWATCHED: Final = "%s; if this process is killed, the next start cleans up"
_LONGEST_NAME: Final = 63  # a DNS label: Docker resolves container names
_UNFIT: Final = re.compile(r"[^a-zA-Z0-9_.-]+")
_GATE_POLL: Final = 0.002  # seconds


class Session:
    """The owner's side of everything created in one process, at one daemon.

    Its `id` is drawn by this process and never inherited by a child. ``before_create`` is called
    before each create, such as to put signal handlers back in place.
    """

    def __init__(
        self,
        *,
        endpoint: Endpoint,
        run: str | None = None,
        supervisor: Supervisor | None = None,
        before_create: Callable[[], object] = lambda: None,
    ) -> None:
        self.id = str(uuid.uuid4())
        self.run = run or self.id
        self.endpoint = endpoint
        self.supervisor = supervisor
        self.owner = this_process()
        self.gate = Gate()
        self.answered = False  # whether the daemon has answered a create
        self._before_create = before_create
        self._numbers = itertools.count(1)
        self._intents: dict[str, None] = {}
        self._made: dict[str, str] = {}
        self._watchdogs: list[Watchdog] = []  # the last one is spoken to
        self._watchdog_lock = threading.Lock()
        self.departing = Departing(endpoint.way, self._watchdogs, forget=self.forget)

    def labels(
        self, *, test_class: str | None = None, service: str | None = None, scope: str | None = None
    ) -> dict[str, str]:
        """The labels that go into every create call of this session."""
        given = {Label.CLASS: test_class, Label.SERVICE: service, Label.SCOPE: scope}
        return {
            Label.MARK: "1",
            Label.SESSION: self.id,
            Label.RUN: self.run,
            Label.OWNER: self.owner.to_label(),
            Label.CREATED: datetime.now(UTC).isoformat(timespec="milliseconds"),
            **{name: value for name, value in given.items() if value is not None},
        }

    def name(self, hint: str) -> str:
        """A readable name, unique on the daemon: a create that is never answered is known by it."""
        stem = f"orchestrator-{self.id[:8]}-{next(self._numbers)}"
        readable = _UNFIT.sub("-", hint).strip("-._")
        return f"{stem}-{readable}"[:_LONGEST_NAME].rstrip("-._")

    @contextlib.contextmanager
    def creating(self, kind: str, name: str) -> Iterator[None]:
        """Hold this around the call that creates something under this name.

        The watchdog learns of it first: when the process dies in the middle of the call, it waits
        for the thing to appear and removes it. In a process that is ending, and in a forked child,
        it is an OrchestratorError.
        """
        if os.getpid() != self.owner.pid:
            raise OrchestratorError(
                f"Process {os.getpid()} cannot create {kind} {name} in the session of process "
                f"{self.owner.pid}, from which it was forked: set services up in the child itself."
            )
        with self.gate.passing() as is_open:
            if not is_open:
                raise OrchestratorError(
                    f"Did not create {kind} {name}: this process is ending, and what it created "
                    "is being removed."
                )
            self._before_create()
            self._intents[name] = None
            self._made[name] = kind
            self._send(f"+{kind} {name}")
            try:
                yield
            except EngineError as error:
                if error.status is not None:  # the daemon said no; without an answer, who knows
                    self.answered = True
                    self.forget(name)
                raise
            self.answered = True
            self._intents.pop(name, None)
            self._send(f"={kind} {name}")

    @property
    def unsettled(self) -> frozenset[str]:
        """Names whose create was begun and never answered; they may still appear."""
        return frozenset(tuple(self._intents))

    @property
    def made(self) -> Mapping[str, str]:
        """Name and kind of what it has created, or tried to, and was not told to be gone."""
        return self._made.copy()

    def forget(self, name: str) -> None:
        """What has this name is gone, or never came to be."""
        self._intents.pop(name, None)
        self._made.pop(name, None)
        self._sent(f"-{name}")

    def watch(self, *, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Have a watchdog watch this process, and do something else while it starts.

        Without one, the exit handlers and the next start's sweep still clean up; so a failure to
        start it is logged, not raised.
        """
        try:
            watchdog = start_watchdog(self.id, endpoint=self.endpoint, supervisor=self.supervisor)
        except WatchdogError as error:
            _LOG.warning(_UNWATCHED, error)
            meanwhile()
            return
        try:
            meanwhile()
        finally:
            try:
                watchdog.acknowledged()
                self._watchdogs.append(watchdog)
                for name, kind in self.made.items():
                    watchdog.send(f"{'+' if name in self._intents else '='}{kind} {name}")
            except WatchdogError as error:
                _LOG.warning(_UNWATCHED, error)

    def dismiss_watchdogs(self) -> None:
        """Tell the watchdogs that nothing is left to do: they end at once."""
        for watchdog in self._watchdogs:
            with contextlib.suppress(WatchdogError):
                watchdog.send("bye")
            watchdog.close()

    def share(self) -> list[int]:
        """Have things outlive this process, should it be killed, while another holds these sockets.

        Without a watchdog there are none.
        """
        with contextlib.suppress(WatchdogError, IndexError):
            return [self._watchdogs[-1].share()]
        return []

    def disown(self) -> None:
        """Let go of the watchdogs, at the end, or in a forked child: they would wait for both."""
        for watchdog in self._watchdogs:
            watchdog.close()

    def _send(self, message: str) -> None:
        if self._sent(message):
            return
        with self._watchdog_lock:  # somebody killed or stopped it: have another
            if not self._sent(message):
                # The old one's socket stays open: should it wake, its owner must not look dead.
                self.watch()

    def _sent(self, message: str) -> bool:
        try:
            self._watchdogs[-1].send(message)
        except (WatchdogError, IndexError):
            return False
        return True


class Gate:
    """Every create passes it: it counts those in flight, and refuses new ones once closed.

    Without it, threads that still create while the rest is being removed leave things behind.
    No locks: a signal handler closes the gate, and the thread it interrupted might hold them. What
    it does is safe under the GIL and without it, because a creator enters first and looks second,
    and the closer closes first and looks second: one of them always sees the other.
    """

    def __init__(self) -> None:
        self._closed = False
        self._inside: dict[object, int] = {}

    @contextlib.contextmanager
    def passing(self) -> Iterator[bool]:
        """Stands around a create; whether it may happen."""
        ticket = object()
        self._inside[ticket] = threading.get_ident()
        try:
            yield not self._closed
        finally:
            del self._inside[ticket]

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True

    def wait_until_empty(self, *, seconds: float) -> bool:
        """Wait for the creates of other threads; whether none, in any thread, is in flight."""
        me = threading.get_ident()
        deadline = time.monotonic() + seconds
        while any(thread != me for thread in tuple(self._inside.values())):
            if time.monotonic() > deadline:
                return False
            time.sleep(_GATE_POLL)
        return not self._inside
