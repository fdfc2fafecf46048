"""Services that live as long as this process: one each, whichever class needs it first.

They stand on a network of their own and join the network of every class that declares them. The
session removes them when the process ends, as it does with everything.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import weakref
from typing import TYPE_CHECKING, Final

from orchestrator.engine import connect
from orchestrator.environment.context import StartContext
from orchestrator.environment.launch import launch, release
from orchestrator.errors import OrchestratorError
from orchestrator.services.hooks import host_names
from orchestrator.services.once import OwnStack
from orchestrator.services.service import join

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from orchestrator.environment.launch import BuildSource
    from orchestrator.images import LockedImage
    from orchestrator.services.service import Service
    from orchestrator.sessions import Session
    from orchestrator.settings import Settings

_SCOPES: Final[weakref.WeakKeyDictionary[Session, ProcessScope]] = weakref.WeakKeyDictionary()
"""A forked child has a session, and so services, of its own."""


def process_scope(session: Session, *, settings: Settings) -> ProcessScope:
    """The services with ``scope="process"`` of a session; every class of the process asks it."""
    return _SCOPES.setdefault(session, ProcessScope(session, settings=settings))


class ProcessScope:
    """The services with ``scope="process"`` that run in this process, by declaration."""

    def __init__(self, session: Session, *, settings: Settings) -> None:
        self._session = session
        self._settings = settings
        self._contexts: dict[Service, StartContext] = {}
        self._handles: dict[Service, Service] = {}

    def start(
        self,
        declaration: Service,
        alias: str,
        *,
        source: LockedImage | BuildSource,
        stopping: threading.Event,
    ) -> None:
        """Start a service, unless an earlier class did and it still runs."""
        handle = self._handles.get(declaration)
        state = None if handle is None else handle.state()
        if state is not None and not state.ended:
            return
        self._end(declaration, remove=True)
        context = StartContext(
            engine=connect(self._settings, endpoint=self._session.endpoint),
            session=self._session,
            settings=self._settings,
            test_class="",
            network=self._session.name(f"process-{alias}"),
            stopping=stopping,
        )
        self._contexts[declaration] = context
        atexit.register(self._at_exit, declaration)
        try:
            context.create_network()
            self._handles[declaration] = launch(
                declaration, alias, context, source=source, await_network=lambda: None
            )
        except BaseException:
            self._end(declaration, remove=True)
            raise

    @contextlib.contextmanager
    def joined(self, declaration: Service, alias: str, *, network: str) -> Iterator[Service]:
        """A class's handle of a running service, reachable by alias on the class's network."""
        handle = self._handles[declaration]
        runtime = handle.running
        runtime.engine.connect_network(
            network, container=runtime.container, aliases=host_names(alias)
        )
        networks = (*runtime.networks, network)
        joined = join(handle, dataclasses.replace(runtime, alias=alias, networks=networks))
        with OwnStack() as leaving:
            leaving.callback(
                runtime.engine.disconnect_network, network, container=runtime.container
            )
            leaving.callback(release, joined)  # what the class opened through it
            yield joined

    def _at_exit(self, declaration: Service) -> None:
        """Close what is open; the session removes the containers after us."""
        if os.getpid() == self._session.owner.pid:  # a forked child shares our connections
            self._end(declaration, remove=False)

    def _end(self, declaration: Service, *, remove: bool) -> None:
        handle = self._handles.pop(declaration, None)
        context = self._contexts.pop(declaration, None)
        if handle is not None:
            with contextlib.suppress(OrchestratorError):  # it may have ended long ago
                release(handle)
        if context is not None:
            with contextlib.closing(context.engine):
                context.keep_logs()
                if remove:
                    context.clear()
