"""The keeper of a run: a process that has the servers which all classes of the run share.

It starts each when the first class asks for it, tells the others where it is, or why it could not
be started, and removes all of them when the run is over: when no process is left that began it. All
is its own, in a session with a watchdog, should it be killed.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import selectors
import socket
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.engine import connect
from orchestrator.environment import warm
from orchestrator.environment.context import StartContext
from orchestrator.environment.environment import apart, start_apart
from orchestrator.environment.keeper import Answering, begin, imported, note
from orchestrator.environment.launch import release
from orchestrator.errors import OrchestratorError, ServiceError
from orchestrator.images import find_lock
from orchestrator.services.once import ProcessLock, load_early
from orchestrator.sessions import end_session, own_session
from orchestrator.sessions.identity import process_start
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.engine.docker import Engine
    from orchestrator.environment.shared import Root
    from orchestrator.services.service import Service
    from orchestrator.sessions import Session

_TICK: Final = 2.0  # seconds between two words to those who wait
_WAIT: Final = 30.0  # how long they wait for the next
_REMOVAL: Final = 20.0  # seconds
_unpacking: Final = ProcessLock()


@dataclass(kw_only=True)
class _Server:
    """One server, from the first request for it to the end of the run."""

    alias: str
    context: StartContext | None = None
    declaration: Service | None = None
    handle: Service | None = None
    error: Exception | None = None
    waiting: list[socket.socket] = field(default_factory=list)

    @property
    def is_decided(self) -> bool:
        """Whether it is ready, or cannot be."""
        return self.handle is not None or self.error is not None


class RunKeeper(Answering):
    """The servers of one run.

    Args:
        order: What it is told when it begins.
    """

    def __init__(self, order: Mapping[str, Any]) -> None:
        listener = socket.socket(fileno=warm.INHERITED)
        super().__init__(Path(order["socket"]), listener)
        self._run = order["run"]
        self._servers: dict[str, _Server] = {}
        self._roots: dict[int, int] = {}  # pid to start
        self._told = time.monotonic()
        self._leaving: socket.socket | None = None
        self._session: Session | None = None
        self._opened = threading.Event()
        self._engine: Engine | None = None
        self._trouble: Exception | None = None
        self._settings = Settings()

    def run(self) -> None:
        """Keep until the run is over."""
        threading.Thread(target=self._open, daemon=True).start()
        try:
            self.serve()
        finally:
            self.leave()
            self._remove()
            if self._leaving is not None:
                with contextlib.suppress(OSError):
                    warm.send(self._leaving, {"stopped": True})

    def _open(self) -> None:
        """Be ready for the first request; it comes while docker-py is being imported."""
        try:
            settings = replace(Settings.from_environment(), warm=0.0, run=self._run, timeline=None)
            engine = connect(settings)
            self._session = own_session(engine, settings=settings)
            self._engine, self._settings = engine, settings
        except Exception as error:  # noqa: BLE001 - told to whoever asks
            self._trouble = error
        self._opened.set()

    def _remove(self) -> None:
        """Remove all that was made, unfinished or not."""
        for server in self._servers.values():
            if server.context is not None:
                server.context.stopping.set()
                with contextlib.suppress(OrchestratorError):
                    server.context.keep_logs()
        if self._session is not None:
            end_session(self._session, seconds=_REMOVAL)

    # Whose run it is

    def _live_for(self, root: Root) -> None:
        """Live as long as this process does, among others."""
        if self._roots.get(root.pid) == root.start or not _lives(root.pid, root.start):
            return
        self._roots[root.pid] = root.start
        with contextlib.suppress(AttributeError, OSError):  # macOS has none: it is looked at
            pidfd = os.pidfd_open(root.pid)
            self._selector.register(pidfd, selectors.EVENT_READ, self._root_ended)

    def _root_ended(self, pidfd: int) -> None:
        self._selector.unregister(pidfd)
        os.close(pidfd)
        self._check_roots()

    def _check_roots(self) -> None:
        self._roots = {pid: start for pid, start in self._roots.items() if _lives(pid, start)}
        self._over = self._over or not self._roots

    def _patience(self) -> float | None:
        return _TICK

    def _look(self) -> None:
        """Is anybody of the run left? And those who wait hear that they wait for something."""
        now = time.monotonic()
        if now - self._told < _TICK:
            return
        self._told = now
        self._check_roots()
        for server in self._servers.values():
            for connection in tuple(server.waiting):
                try:
                    warm.send(connection, {"wait": _WAIT})
                except OSError:  # it is dead
                    server.waiting.remove(connection)
                    connection.close()

    # What it is asked

    def _answer(self, connection: socket.socket, request: Mapping[str, Any], pid: int) -> bool:
        if request["do"] == "share":
            self._live_for(request["root"])
            return self._share(connection, request)
        if request["do"] == "leave":
            self._roots.pop(request["root"] if pid in (0, request["root"]) else -1, None)
            if not self._roots:
                self._leaving, self._over = connection, True
                return True
            warm.send(connection, {"stopped": False})
        return False

    def _share(self, connection: socket.socket, request: Mapping[str, Any]) -> bool:
        server = self._servers.get(request["key"])
        ended = None
        if server is not None and server.handle is not None and _has_ended(server.handle):
            ended, server = server.context, None  # who comes next finds a new one
        if server is None:
            server = self._servers[request["key"]] = _Server(alias=request["alias"])
            args = (server, request, ended)
            threading.Thread(target=self._start, args=args, daemon=True).start()
        if server.is_decided:
            self._tell(server, connection)
            return False
        server.waiting.append(connection)
        return True

    def _tell(self, server: _Server, connection: socket.socket) -> None:
        """Say where it is, or why it is not."""
        if server.handle is None or server.declaration is None:
            warm.send(connection, {"error": server.error})
            return
        engine = server.handle.running.engine
        warm.send(
            connection,
            {
                "server": warm.handed(server.declaration, server.handle),
                "engine": {"host": engine.host, "bind_address": engine.bind_address},
            },
        )

    def _made(self, _: object) -> None:
        os.read(self._wake, 1)
        for server in self._servers.values():
            if not server.is_decided:
                continue
            while server.waiting:
                with server.waiting.pop() as connection, contextlib.suppress(OSError):
                    self._tell(server, connection)

    # Starting

    def _start(
        self, server: _Server, request: Mapping[str, Any], ended: StartContext | None
    ) -> None:
        """Start a server, in place of one that has ended."""
        try:
            if ended is not None:
                self._clear(ended)
            handle = self._started(server, request)
        except OrchestratorError as error:
            server.error = error.with_traceback(None)
        except Exception as error:  # noqa: BLE001 - of the user's code, perhaps
            note(f"{server.alias}: {type(error).__name__}: {error}")
            text = f"{server.alias} could not be started for the run: {type(error).__name__}: "
            server.error = ServiceError(f"{text}{error}", service=server.alias)
        else:
            server.handle = handle
        if server.error is not None:
            if not getattr(server.error, "__notes__", []):
                server.error.add_note(f"It was to serve the whole run, first {request['first']}")
            if server.context is not None:
                self._clear(server.context)
                server.context = None
        os.write(self._woken, b".")

    @staticmethod
    def _clear(context: StartContext) -> None:
        """Remove what serves nobody any more; what would not go goes with the run."""
        context.keep_logs()
        with contextlib.suppress(OrchestratorError):
            context.clear()

    def _started(self, server: _Server, request: Mapping[str, Any]) -> Service:
        declaration = server.declaration = _unpacked(request)
        drivers = declaration.required_modules()  # while the container starts
        threading.Thread(target=load_early, args=[drivers], daemon=True).start()
        self._opened.wait()
        if self._engine is None or self._session is None:
            raise self._trouble or AssertionError
        context = StartContext(
            engine=self._engine,
            session=self._session,
            settings=self._settings,
            lock=find_lock(self._settings),
            test_class="",
            network="",
        )
        own = server.context = apart(server.alias, context)
        needed = ((alias, self._servers[key].handle) for alias, key in request["needs"].items())
        needs = {alias: handle for alias, handle in needed if handle is not None}
        handle = start_apart(declaration, server.alias, own, needs=needs)
        release(handle)
        return handle


def _unpacked(request: Mapping[str, Any]) -> Service:
    """The declaration, from modules as the other process has them."""
    files = request["files"]

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str, /) -> Any:
            if module.partition(".")[0] == "orchestrator" or module not in files:
                return super().find_class(module, name)
            found = sys.modules.get(module)
            if getattr(found, "__file__", None) != files[module]:
                found = imported(module, files[module])
            return reduce(getattr, name.split("."), found)

        def persistent_load(self, _: Any) -> Any:
            return sys.stdout

    with _unpacking.held():  # a module that another thread is importing is not whole yet
        sys.path.extend(it for it in request["path"] if it not in sys.path)
        declaration: Service = Unpickler(io.BytesIO(request["declaration"])).load()
        return declaration


def _has_ended(handle: Service) -> bool:
    try:
        state = handle.state()
    except OrchestratorError:
        return False
    return state is None or state.ended


def _lives(pid: int, start: int) -> bool:
    try:
        return process_start(pid) == start
    except OSError:
        return True


def main() -> None:
    """Keep the servers of a run."""
    RunKeeper(begin()).run()
