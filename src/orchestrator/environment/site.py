"""What the services of one class share while they start, and what was made there."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from orchestrator.engine.network import create_private_network
from orchestrator.environment.following import Follower
from orchestrator.environment.timeline import CLASS
from orchestrator.errors import ReapError
from orchestrator.sessions import Thing, remove_things

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from orchestrator.engine.docker import Engine
    from orchestrator.environment.timeline import Timeline
    from orchestrator.services.service import Service
    from orchestrator.sessions import Session
    from orchestrator.settings import Settings

_UNSEEN: Final = contextlib.nullcontext()
_PATIENCE: Final = 15.0  # seconds for what the daemon refuses to remove at first
_LAST_LINES: Final = 5.0  # seconds for a log to be read to its end


@dataclass(frozen=True, kw_only=True)
class Site:
    """The ground one class's services stand on.

    Attributes:
        test_class: The class's full name; empty for what outlives it.
        network: The name of its network.
        stopping: Set when nobody waits for the start any more.
        bound: Every service that was given a container, ready or not.
        timeline: Where the start is recorded, or None.
    """

    engine: Engine
    session: Session
    settings: Settings
    test_class: str
    network: str
    stopping: threading.Event = field(default_factory=threading.Event)
    bound: list[Service] = field(default_factory=list)
    timeline: Timeline | None = None
    _followers: list[Follower] = field(default_factory=list)
    _containers: list[str] = field(default_factory=list)
    _networks: list[str] = field(default_factory=list)

    def for_test(self) -> Site:
        """The same ground for one test: what is made there is removed after it."""
        return replace(
            self,
            stopping=threading.Event(),
            bound=[],
            timeline=None,
            _followers=[],
            _containers=[],
            _networks=[],
        )

    def span(self, row: str, phase: str) -> AbstractContextManager[None]:
        """Around what takes time: recorded when somebody wants to see it."""
        return _UNSEEN if self.timeline is None else self.timeline.span(row, phase)

    def follow(self, handle: Service) -> None:
        """Give the container's log to the logger that is declared, until it is removed."""
        if handle.log_to is not None:
            self._followers.append(Follower(handle, handle.log_to))

    def labels(self, *, service: str | None = None, scope: str | None = None) -> Mapping[str, str]:
        """What everything made here is labelled with."""
        return self.session.labels(test_class=self.test_class or None, service=service, scope=scope)

    @contextlib.contextmanager
    def making_container(self, name: str) -> Iterator[None]:
        """Around the creation of a container: from here on it will be removed."""
        self._containers.append(name)
        with self.session.creating("container", name):
            yield

    def create_network(self) -> None:
        """Create the network; from here on it will be removed."""
        self._networks.append(self.network)
        with (
            self.span(CLASS, "network"),
            self.session.creating("network", self.network),
        ):
            create_private_network(
                self.engine,
                self.network,
                labels=self.labels(scope="class"),
                pool=self.settings.subnets,
            )

    def remove_container(self, name: str) -> None:
        """Remove one container before the rest.

        Raises:
            ReapError: It would not go.
        """
        self._remove([Thing("container", name, name)])
        self._containers.remove(name)

    def clear(self) -> None:
        """Remove everything made here: containers side by side, then the network.

        Raises:
            ReapError: Something would not go; the message names each, and why.
        """
        containers, networks = list(self._containers), list(self._networks)
        try:
            self._remove(
                [
                    *(Thing("container", name, name) for name in containers),
                    *(Thing("network", name, name) for name in networks),
                ]
            )
        finally:
            for follower in self._followers:
                follower.join(timeout=_LAST_LINES)

    def _remove(self, things: Sequence[Thing]) -> None:
        left = remove_things(self.engine, things, seconds=_PATIENCE)
        for name in {thing.name for thing in things} - {thing.name for thing in left}:
            self.session.forget(name)
        if left:
            raise ReapError(
                f"{self.test_class or 'process'}: not everything could be removed; "
                "`python -m orchestrator reap` tries again:\n"
                + "\n".join(f"  {thing.reason}" for thing in left)
            )
