"""`Environment`: the services of one test class, from start to stop."""

from __future__ import annotations

import contextlib
import logging
import time
from concurrent import futures
from typing import TYPE_CHECKING, Any, Final

from orchestrator.engine import connect, find_endpoint
from orchestrator.environment.keeping import keep_logs
from orchestrator.environment.launch import failure, launch
from orchestrator.environment.site import Site
from orchestrator.errors import OrchestratorError
from orchestrator.images import find_lock, resolve_image
from orchestrator.services.dependencies import in_order, needed
from orchestrator.sessions import own_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.images import LockedImage
    from orchestrator.services.service import Service
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
        self._services = services
        self._test_class = test_class
        self._settings = settings
        self._ending = contextlib.ExitStack()

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
            try:
                self.stop()
            except OrchestratorError as left:
                error.add_note(str(left))
            raise
        names = ", ".join(self._services)
        _log.info("%s: %s ready in %.2f s", self._test_class, names, time.monotonic() - began)

    def _start(self) -> Mapping[Service, Service]:
        endpoint = find_endpoint()
        engine = connect(self._settings, endpoint=endpoint)
        self._ending.callback(engine.close)
        images = self._images()  # before anything is made: the cheapest of mistakes
        session = own_session(engine, endpoint=endpoint, settings=self._settings)
        site = Site(
            engine=engine,
            session=session,
            settings=self._settings,
            test_class=self._test_class,
            network=session.name("network"),
        )
        self._ending.callback(site.clear)
        if self._settings.logs is not None:
            self._ending.callback(keep_logs, site, folder=self._settings.logs)
        return self._launch_all(site, images)

    def _images(self) -> Mapping[str, LockedImage]:
        lock = find_lock(self._settings)
        return {
            alias: resolve_image(
                service.image, default=service.lock_entry, lock=lock, settings=self._settings
            )
            for alias, service in self._services.items()
        }

    def _launch_all(
        self, site: Site, images: Mapping[str, LockedImage]
    ) -> Mapping[Service, Service]:
        """Every service in a thread of its own; the first failure stops the others."""
        running: dict[str, futures.Future[Service]] = {}
        with futures.ThreadPoolExecutor(len(self._services) + 1, "orchestrator-start") as pool:
            networking = pool.submit(site.create_network)

            def run(alias: str) -> Service:
                for other in needed(alias, self._services):
                    running[other].result()
                return launch(
                    self._services[alias],
                    alias,
                    site,
                    locked=images[alias],
                    await_network=networking.result,
                )

            try:
                for alias in in_order(self._services):
                    running[alias] = pool.submit(run, alias)
                steps: list[futures.Future[Any]] = [networking, *running.values()]
                done, _ = futures.wait(steps, return_when=futures.FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                site.stopping.set()
                raise
        handles = {self._services[alias]: future.result() for alias, future in running.items()}
        for handle in handles.values():
            self._ending.callback(_release, handle)
        return handles

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
        with contextlib.ExitStack() as states:
            yield {
                declaration: states.enter_context(_state(handle, test))
                for declaration, handle in self.handles.items()
            }


@contextlib.contextmanager
def _state(handle: Service, test: str) -> Iterator[Service]:
    """One service's clean state; what its driver raises on the way becomes ours."""
    isolation = handle.isolated(test)
    with _as_ours(handle, "could not give the test clean state"):
        state = isolation.__enter__()
    try:
        yield state
    finally:
        with _as_ours(handle, "could not drop the test's state"):
            isolation.__exit__(None, None, None)


def _release(handle: Service) -> None:
    with _as_ours(handle, "could not close its connections"):
        handle.release()


@contextlib.contextmanager
def _as_ours(handle: Service, what: str) -> Iterator[None]:
    try:
        yield
    except OrchestratorError:
        raise
    except Exception as error:
        raise failure(handle, what, error) from error
