"""`Environment`: the services of one test class, from start to stop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from concurrent import futures
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from orchestrator.environment.context import StartContext, left_behind
from orchestrator.environment.late_engine import LateEngine
from orchestrator.environment.launch import ending_well, is_ours, launch, release, source_of
from orchestrator.environment.timeline import OF_CLASS
from orchestrator.errors import OrchestratorError
from orchestrator.images import find_lock
from orchestrator.probes.waiting import answers
from orchestrator.services.once import OwnStack, check_installed, load_early
from orchestrator.services.service import in_order, needed
from orchestrator.sessions import remove_kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from orchestrator.environment.timeline import Timeline
    from orchestrator.environment.warm import Origin
    from orchestrator.errors import EngineUnavailableError
    from orchestrator.services.options import Scope
    from orchestrator.services.service import Service
    from orchestrator.sessions import Session
    from orchestrator.settings import Settings

_LONGER: Final[tuple[Scope, ...]] = ("class", "process", "run")  # than a test
_LOOK: Final = 0.5  # seconds
_log: Final = logging.getLogger("orchestrator.environment")


class Environment:
    """The services of one test class.

    Args:
        services: Alias to declaration.
        test_class: The class's full name, for labels and messages.
        settings: What the environment variables ask for.
        origin: The class, where its servers may be ready already, or be made for its next run.

    Attributes:
        services: Alias to declaration.
        handles: Declaration to running service; empty unless started.
        started: Whether they run.
    """

    def __init__(
        self,
        services: Mapping[str, Service],
        *,
        test_class: str,
        settings: Settings,
        origin: Origin | None = None,
    ) -> None:
        self.handles: Mapping[Service, Service] = {}
        self._engine: LateEngine | None = None
        self._session: Session | None = None
        self.services = services
        self._test_class = test_class
        self._settings = settings
        self._origin = origin
        self._ending = OwnStack()
        self._timeline: Timeline | None = None
        self._contexts: list[StartContext] = []  # of the class, and of the test that runs
        self.started = False

    def start(self) -> None:
        """Create the network and every container at once; return when all services are ready.

        Nothing of it is left when it raises, also on Ctrl-C: unittest runs no clean-ups then.

        Raises:
            OrchestratorError: The first failure.
        """
        began = time.monotonic()
        try:
            self._ending.pin()
            taken = self._origin.take(self._ending) if self._origin else None
            self.handles = self._start() if taken is None else taken
            self.started = True
        except BaseException as error:
            self._show_timeline(f"{type(error).__name__}: {error}")
            if isinstance(error, Exception):
                self.failed(error)
            try:
                self.stop(wait=True)
            except OrchestratorError as left:
                error.add_note(str(left))
            raise
        self._show_timeline(None)
        names = ", ".join(self.services)
        _log.info("%s: %s ready in %.2f s", self._test_class, names, time.monotonic() - began)

    def _show_timeline(self, error: str | None) -> None:
        """Add to the page that was asked for; what cannot be written is logged, not raised."""
        if self._timeline is None or self._settings.timeline is None:
            return
        from orchestrator.environment.timeline import add_to_page

        alone = self._session.run if self._session else f"process {os.getpid()}"
        run = self._settings.run_of_workers or alone
        try:
            add_to_page(self._settings.timeline, self._timeline, run=run, error=error)
        except OSError as failed:
            _log.warning("the timeline was not written: %s", failed)

    def _start(self) -> Mapping[Service, Service]:
        settings = self._settings
        if settings.timeline is not None:
            from orchestrator.environment.timeline import Timeline

            needs = {alias: needed(alias, self.services) for alias in self.services}
            self._timeline = Timeline(test_class=self._test_class, needs=needs)
        lock = find_lock(settings)
        for alias, service in self.services.items():  # before anything is made: it is cheap
            source_of(service, lock=lock, settings=settings)
            of = f"{self._test_class}: {alias} = {type(service).__name__}(…)"
            check_installed(service.required_modules(), of=of)
        engine = self._engine = LateEngine(settings)
        self._ending.callback(engine.close)
        context = StartContext(
            engine=engine,
            settings=settings,
            lock=lock,
            test_class=self._test_class,
            timeline=self._timeline,
        )
        scopes = [it.scope for it in self.services.values()]
        # Where all is the run's, nothing is asked of the engine, unless a test does.
        if set(scopes) != {"run"}:
            with context.span(OF_CLASS, "session"):
                session = self._session = context.session
            if scopes != ["process"]:  # which has a network of its own, and nobody to reach it
                context = dataclasses.replace(context, network=session.name("network"))
        self._contexts = [context]
        return self._launch(_LONGER, context, ending=self._ending)

    def skips(self, error: EngineUnavailableError) -> bool:
        """Whether the tests are skipped, because that is asked for where there is no daemon.

        That one which did answer this process has gone away is no reason for a green run.
        """
        answered = any(one is not None and one.answered for one in (self._engine, self._session))
        return self._settings.skip_without_docker and error.absent and not answered

    def _launch(
        self, scopes: tuple[Scope, ...], context: StartContext, *, ending: OwnStack
    ) -> Mapping[Service, Service]:
        """Start some services side by side, each after those it depends on.

        `ending` keeps their logs, and removes whatever was made of them.
        """
        aliases = [name for name, service in self.services.items() if service.scope in scopes]
        ending.callback(context.clear)
        ending.callback(context.keep_logs)
        drivers = [name for alias in aliases for name in self.services[alias].client_modules]
        awaited = {other for alias in aliases for other in needed(alias, self.services)}
        running: dict[str, futures.Future[Service]] = {}
        with futures.ThreadPoolExecutor(len(aliases) + 2, "orchestrator-start") as pool:
            networking: futures.Future[None] = futures.Future()
            if context is self._contexts[0] and context.network:
                networking = pool.submit(context.create_network)
                pool.submit(remove_kept, context.engine, self._test_class)  # of its last run
            else:
                networking.set_result(None)
            pool.submit(load_early, drivers)  # a tenth of a second each, while containers start

            def start(alias: str) -> Service:
                for other in needed(alias, self.services):
                    if other in running:
                        running[other].result()
                declaration, network = self.services[alias], networking.result
                if declaration.scope in ("process", "run"):
                    return self._shared(alias, context, await_network=network, ending=ending)
                handle = launch(declaration, alias, context, await_network=network)
                ending.callback(release, handle)
                others_start = sum(it.done() for it in tuple(running.values())) < len(aliases) - 1
                if others_start and alias not in awaited:
                    _open_early(handle)
                return handle

            try:
                for alias in [name for name in in_order(self.services) if name in aliases]:
                    running[alias] = pool.submit(start, alias)
                _await_all({networking, *running.values()})
            except BaseException:
                context.stopping.set()  # the others are not waited for
                raise
        return {self.services[alias]: started.result() for alias, started in running.items()}

    def _shared(
        self,
        alias: str,
        context: StartContext,
        *,
        await_network: Callable[[], None],
        ending: OwnStack,
    ) -> Service:
        """The class's handle of a server that other classes use, too."""
        from orchestrator.environment import shared  # few classes have any

        declaration = self.services[alias]
        if declaration.scope == "process":
            lock = declaration._lock  # noqa: SLF001 - of all who share it
            with context.span(alias, "shared"), lock.held():
                server = shared.of_process(declaration, alias, context)
            await_network()
            handle = shared.joined(server, alias, context)
            ending.callback(release, handle)  # what the class opened through it
            return handle
        of_run = shared.ServersOfRun(self.services, context)
        with context.span(alias, "shared"):
            server = of_run.obtain(alias)
        await_network()
        if context.network:
            server = shared.joined(server, alias, context)
        return of_run.part(server, ending)

    def open_early(self) -> None:
        """Have connections and all else that the first test needs, while nobody waits for them."""
        for handle in self.handles.values():
            _open_early(handle)

    def lives(self, *, patience: float = 2.0) -> bool:
        """Whether all of it runs and answers within so many seconds."""
        ask = partial(answers, patience=patience)
        with futures.ThreadPoolExecutor(len(self.handles), "orchestrator-ask") as pool:
            try:
                return all(pool.map(ask, self.handles.values()))
            except OrchestratorError:
                return False

    @property
    def keeps_failed(self) -> bool:
        """Whether it stays when something of its class fails."""
        return self._settings.keep_failed

    def failed(self, error: BaseException | None = None) -> None:
        """A test or a fixture has failed: with ORCHESTRATOR_KEEP_FAILED its servers stay.

        The error gets a note, once, that says how to look into them.
        """
        for context in tuple(self._contexts):
            context.failed.set()
            text = context.how_to_look() if self.keeps_failed else ""
            if error and text and not context.told.is_set():
                context.told.set()
                error.add_note(text)

    def stop(self, *, wait: bool) -> None:
        """Remove everything; safe to call twice.

        Args:
            wait: Until all is gone; else it goes while the next class runs, and `left_behind` says
                what did not.

        Raises:
            ReapError: Something would not go.
        """
        was_started, self.handles, self.started = self.started, {}, False
        try:
            self._ending.close()
        finally:
            if was_started and self._origin:
                self._origin.make_next()
            for error in left_behind(test_class=self._test_class).values() if wait else ():
                raise error

    @contextlib.contextmanager
    def isolated(self, test: str) -> Iterator[Mapping[Service, Service]]:
        """Clean state for one test: declaration to the handle of this test.

        Raises:
            ServiceError: A service could not give or drop it, for instance because it ended.
        """
        with OwnStack() as states:
            handles = {**self.handles}
            if any(service.scope == "test" for service in self.services.values()):
                context = self._contexts[0].for_test()
                self._contexts.append(context)
                states.callback(self._contexts.remove, context)
                handles |= self._launch(("test",), context, ending=states)
            yield {
                declaration: states.enter_context(
                    ending_well(handle, handle._isolated_when_read(test))  # noqa: SLF001 - ours
                )
                for declaration, handle in handles.items()
            }


def _open_early(handle: Service) -> None:
    """Give clean state and drop it; what goes wrong does so again when it is a test's."""
    if handle.scope == "class" and is_ours(handle, "isolated"):
        with contextlib.suppress(Exception), handle._isolated_when_read("early"):  # noqa: SLF001 - ours
            pass


def _await_all(steps: set[futures.Future[Any]]) -> None:
    """Wait for all, or for one that fails, which raises what it did."""
    while steps:  # Python misses a Ctrl-C that comes just as it begins to wait without an end
        first = futures.FIRST_EXCEPTION
        done, steps = futures.wait(steps, timeout=_LOOK, return_when=first)
        for step in done:
            step.result()
