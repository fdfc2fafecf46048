"""The keeper of a run: a process that has the servers which all classes of the run share.

It starts each when the first class asks for it, tells the others where it is, or why it could not
be started, and removes all of them when the run is over: when no process is left that began it. All
is its own, in a session with a watchdog, should it be killed.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import socket
import sys
import threading
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.environment import keeper
from orchestrator.environment.context import StartContext
from orchestrator.environment.late_engine import LateEngine
from orchestrator.environment.launch import release
from orchestrator.environment.shared import WAIT, Root, apart, has_ended, start_apart
from orchestrator.errors import OrchestratorError, ServiceError
from orchestrator.images import find_lock
from orchestrator.services.once import ProcessLock, load_early, locked_property
from orchestrator.sessions import end_session
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.services.service import Service

_TICK: Final = 2.0  # seconds between two words to who waits, and between two looks at the run
_REMOVAL: Final = 20.0  # seconds
_unpacking: Final = ProcessLock()


@dataclass(kw_only=True)
class _Server:
    """One server, from the first request for it to the end of the run."""

    alias: str
    ready: threading.Event = field(default_factory=threading.Event)  # or it cannot be
    context: StartContext | None = None
    declaration: Service | None = None
    handle: Service | None = None
    error: Exception | None = None

    @property
    def answer(self) -> Mapping[str, Any]:
        """Where it is, or why it is not."""
        if self.handle is None or self.declaration is None:
            return {"error": self.error}
        return {
            "server": keeper.handed(self.declaration, self.handle),
            "engine": keeper.published(self.handle.running.engine),
        }


class RunKeeper(keeper.Keeper):
    """The servers of one run; it is over when no process is left that began it."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        super().__init__(Path(order["socket"]), socket.socket(fileno=keeper.INHERITED))
        self._run = order["run"]
        self._servers: dict[str, _Server] = {}
        self._roots = {Root(**order["root"])}

    def keep(self) -> None:
        """Return when nobody of the run is left."""
        threading.Thread(target=lambda: self._context, daemon=True).start()  # while it is asked
        while not self.over.wait(_TICK):
            with self.lock:
                self._roots = {root for root in self._roots if root.lives}
                if not self._roots:
                    self.over.set()

    def remove(self) -> None:
        """Remove all that was made, unfinished or not."""
        for server in self._servers.values():
            if server.context is not None:
                server.context.stopping.set()
                with contextlib.suppress(OrchestratorError):
                    server.context.keep_logs()
        if "_context" in vars(self):
            end_session(self._context.session, seconds=_REMOVAL)

    @locked_property
    def _context(self) -> StartContext:
        settings = replace(Settings.from_environment(), warm=0.0, run=self._run, timeline=None)
        context = StartContext(
            engine=LateEngine(settings), settings=settings, lock=find_lock(settings), test_class=""
        )
        _ = context.session  # it is made when it is first read
        return context

    def answer(self, connection: socket.socket, request: Mapping[str, Any], pid: int) -> bool:
        """Answer one request; whether the connection is still needed."""
        if request["do"] == "leave":
            with self.lock:
                if pid in (0, request["root"]):
                    self._roots = {it for it in self._roots if it.pid != request["root"]}
                if not self._roots:
                    return self.end(connection)
            keeper.send(connection, {"stopped": False})
            return False
        server = self._server(request)
        if server is None:
            self.left.wait()  # then who asks finds another keeper
            return False
        while not server.ready.wait(_TICK):
            keeper.send(connection, {"wait": WAIT})
        keeper.send(connection, server.answer)
        return False

    def _server(self, request: Mapping[str, Any]) -> _Server | None:
        """The one that is asked for; who is first has it started. None when the run is over."""
        with self.lock:
            if self.over.is_set():
                return None
            if request["root"].lives:
                self._roots.add(request["root"])
            key, ended = request["key"], None
            server = self._servers.get(key)
            if server is not None and server.handle is not None and has_ended(server.handle):
                ended, server = server.context, None
            if server is None:
                server = self._servers[key] = _Server(alias=request["alias"])
                args = (server, request, ended)
                threading.Thread(target=self._start, args=args, daemon=True).start()
        return server

    def _start(
        self, server: _Server, request: Mapping[str, Any], ended: StartContext | None
    ) -> None:
        """Start a server, in place of one that has ended."""
        try:
            if ended is not None:
                self._clear(ended)
            server.handle = self._started(server, request)
        except Exception as error:  # noqa: BLE001 - of the user's code, perhaps
            server.error = error.with_traceback(None)
            if not isinstance(error, OrchestratorError):
                what = f"{type(error).__name__}: {error}"
                note = f"{server.alias} could not be started for the run: {what}"
                server.error = ServiceError(note, service=server.alias)
                keeper.note(note)
            if not getattr(server.error, "__notes__", []):
                server.error.add_note(f"It was to serve the whole run, first {request['first']}")
            if server.context is not None:
                self._clear(server.context)
                server.context = None
        server.ready.set()

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
        own = server.context = apart(server.alias, self._context)
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
                found = keeper.imported(module, files[module])
            return reduce(getattr, name.split("."), found)

        def persistent_load(self, _: Any) -> Any:
            return sys.stdout

    with _unpacking.held():  # a module that another thread is importing is not whole yet
        sys.path.extend(it for it in request["path"] if it not in sys.path)
        declaration: Service = Unpickler(io.BytesIO(request["declaration"])).load()
        return declaration


def main() -> None:
    """Keep the servers of a run."""
    RunKeeper(keeper.begin()).run()
