"""`Environment`: the services of one test class, from start to stop."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING, Final

from orchestrator.engine import connect, find_endpoint
from orchestrator.environment.context import StartContext
from orchestrator.environment.launch import (
    launch,
    release,
    source_of,
    start_all,
    translate_errors,
)
from orchestrator.environment.shared import process_scope
from orchestrator.environment.timeline import CLASS, Timeline, add_to_page
from orchestrator.errors import OrchestratorError, ServiceExitedError
from orchestrator.images import find_lock
from orchestrator.services.once import OwnStack
from orchestrator.services.service import needed
from orchestrator.sessions import own_session

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from orchestrator.engine.docker import Engine
    from orchestrator.services.options import Scope
    from orchestrator.services.service import Service
    from orchestrator.sessions import Session
    from orchestrator.settings import Settings

_log: Final = logging.getLogger("orchestrator.environment")


class Environment:
    """The services of one test class.

    Args:
        services: Alias to declaration.
        test_class: The class's full name, for labels and messages.
        settings: What the environment variables ask for.

    Attributes:
        handles: Declaration to running service; empty unless started.
    """

    def __init__(
        self, services: Mapping[str, Service], *, test_class: str, settings: Settings
    ) -> None:
        self.handles: Mapping[Service, Service] = {}
        self._engine: Engine | None = None
        self._session: Session | None = None
        self._services = services
        self._test_class = test_class
        self._settings = settings
        self._ending = OwnStack()
        self._timeline: Timeline | None = None
        self._run = ""

    def start(self) -> None:
        """Create the network and every container at once; return when all services are ready.

        Nothing of it is left when it raises, also on Ctrl-C: unittest runs no clean-ups then.

        Raises:
            OrchestratorError: The first failure.
        """
        began = time.monotonic()
        try:
            self.handles = self._start()
        except BaseException as error:
            self._show_timeline(error)
            try:
                self.stop()
            except OrchestratorError as left:
                error.add_note(str(left))
            raise
        self._show_timeline(None)
        names = ", ".join(self._services)
        _log.info("%s: %s ready in %.2f s", self._test_class, names, time.monotonic() - began)

    def _show_timeline(self, error: BaseException | None) -> None:
        """Add to the page that was asked for; what cannot be written is logged, not raised."""
        if self._timeline is None or self._settings.timeline is None:
            return
        why = None if error is None else f"{type(error).__name__}: {error}"
        try:
            add_to_page(self._settings.timeline, self._timeline, run=self._run, error=why)
        except OSError as failed:
            _log.warning("the timeline was not written: %s", failed)

    def _start(self) -> Mapping[Service, Service]:
        if self._settings.timeline is not None:
            needs = {alias: needed(alias, self._services) for alias in self._services}
            self._timeline = Timeline(test_class=self._test_class, needs=needs)
        self._ending.pin()
        endpoint = find_endpoint()
        engine = connect(self._settings, endpoint=endpoint)
        self._ending.callback(engine.close)
        self._engine = engine
        lock = find_lock(self._settings)  # before anything is made: the cheapest of mistakes
        self._sources = {
            alias: source_of(service, lock=lock, settings=self._settings)
            for alias, service in self._services.items()
        }
        with self._timeline.span(CLASS, "session") if self._timeline else contextlib.nullcontext():
            session = own_session(engine, endpoint=endpoint, settings=self._settings)
        self._session = session
        self._context = StartContext(
            engine=engine,
            session=session,
            settings=self._settings,
            test_class=self._test_class,
            network=session.name("network"),
            timeline=self._timeline,
        )
        self._run = os.environ.get("PYTEST_XDIST_TESTRUNUID", session.run)
        aliases = self._aliases("class", "process")
        network = self._context.create_network
        return self._launch(aliases, self._context, ending=self._ending, network=network)

    @property
    def daemon_answered(self) -> bool:
        """Whether the daemon has answered this process anything, now or for a class before."""
        asked = (self._engine, self._session)
        return any(one is not None and one.answered for one in asked)

    def _launch_for_test(self, states: OwnStack) -> Mapping[Service, Service]:
        """Start what lives as long as one test; the stack removes it."""
        aliases = self._aliases("test")
        if not aliases:
            return {}
        context = self._context.for_test()
        return self._launch(aliases, context, ending=states, network=lambda: None)

    def _launch(
        self,
        aliases: Collection[str],
        context: StartContext,
        *,
        ending: contextlib.ExitStack,
        network: Callable[[], None],
    ) -> Mapping[Service, Service]:
        """Start some services; `ending` keeps their logs and removes whatever was made of them."""
        ending.callback(context.clear)
        ending.callback(context.keep_logs)

        def start(alias: str, await_network: Callable[[], None]) -> Service:
            declaration, source = self._services[alias], self._sources[alias]
            if declaration.scope == "process":
                shared = process_scope(context.session, settings=self._settings)
                with context.span(alias, "shared"):
                    shared.start(declaration, alias, source=source, stopping=context.stopping)
                await_network()
                joined = shared.joined(declaration, alias, network=context.network)
                return ending.enter_context(joined)
            handle = launch(declaration, alias, context, source=source, await_network=await_network)
            ending.callback(release, handle)
            return handle

        return start_all(self._services, aliases, network=network, start=start, context=context)

    def _aliases(self, *scopes: Scope) -> Collection[str]:
        return [alias for alias, service in self._services.items() if service.scope in scopes]

    def stop(self) -> None:
        """Remove everything; safe to call twice.

        Raises:
            ReapError: Something would not go.
        """
        self.handles = {}
        self._ending.pop_all().close()

    @contextlib.contextmanager
    def isolated(self, test: str) -> Iterator[Mapping[Service, Service]]:
        """Clean state for one test: declaration to the handle of this test.

        Raises:
            ServiceError: A service could not give or drop it, for instance because it ended.
        """
        with OwnStack() as states:
            handles = {**self.handles, **self._launch_for_test(states)}
            yield {
                declaration: states.enter_context(_state(handle, test))
                for declaration, handle in handles.items()
            }


@contextlib.contextmanager
def _state(handle: Service, test: str) -> Iterator[Service]:
    """Give a test one service's clean state; what its driver raises on the way is translated."""
    isolation = handle.isolated(test)
    restarts = handle.running.restarts
    with translate_errors(handle, "could not give the test clean state"):
        state = isolation.__enter__()
    try:
        yield state
    finally:
        # A server that a test has ended, on purpose or not, has no state left to drop. Who needs
        # it next is told.
        what = "could not drop the test's state"
        if handle.running.restarts > restarts:
            what += " (the test restarted it: isolated() must drop by a new connection)"
        with contextlib.suppress(ServiceExitedError), translate_errors(handle, what):
            isolation.__exit__(None, None, None)
