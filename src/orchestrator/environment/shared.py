"""Services with ``scope="run"``: one server for all classes and processes of a run.

A *keeper of the run*, a process of its own, starts what is asked for first, and has it until the
run is over. Here is what a test process does: find the keeper or begin one, and be told where the
server is. Each class then has a part of it: what `Hooks.shared` gives, for its own services with
names and rights of their own. What the keeper does is in `run_keeper`.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import pickle
import secrets
import socket
import sys
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from orchestrator.engine import find_endpoint
from orchestrator.environment import warm
from orchestrator.environment.likeness import UnlikeError, described, of_servers
from orchestrator.errors import DeclarationError, OrchestratorError, ServiceError
from orchestrator.images.lockfile import lock_path
from orchestrator.progress import telling
from orchestrator.services.hooks import PART, Runtime
from orchestrator.services.once import load_early
from orchestrator.services.service import Service, in_order, needed
from orchestrator.sessions import is_supervised
from orchestrator.sessions.identity import process_start, this_process

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

    from orchestrator.engine import Endpoint
    from orchestrator.engine.docker import Engine
    from orchestrator.services.once import OwnStack
    from orchestrator.settings import Settings

_SOCKET: Final = ".run"
_ATTEMPTS: Final = 3  # one keeper may be about to end, and another be killed
_PATIENCE: Final = 30.0  # seconds between two words of a keeper
_END: Final = 30.0  # seconds that it has to remove everything
_BACKLOG: Final = 64


@dataclass(frozen=True, kw_only=True)
class Root:
    """A process whose end is the run's end, if no other is left."""

    pid: int
    start: int


def _root() -> Root:
    """The one that began this process as a worker: our runner, or xdist's; else this process."""
    pid, own = os.getppid(), os.getpid()
    if is_supervised() or "PYTEST_XDIST_WORKER" in os.environ:
        with contextlib.suppress(OSError):
            if pid > 1 and (start := process_start(pid)) is not None:
                return Root(pid=pid, start=start)
    return Root(pid=own, start=process_start(own) or 0)


def _digest(found: object) -> str:
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


def _run_id(settings: Settings) -> str:
    """What all processes of a run have in common; one that is none's worker is a run itself."""
    return settings.run_of_workers or this_process().to_label()


class KeeperOfRun:
    """The keeper of this process's run, as this process sees it."""

    def __init__(self, settings: Settings, endpoint: Endpoint) -> None:
        self._run = _run_id(settings)
        asked = sorted(of_servers(os.environ).items())
        found = (os.getcwd(), sys.executable, sys.version, endpoint.url, asked)  # noqa: PTH109
        try:
            folder = warm.folder()
        except OSError as error:
            raise OrchestratorError(
                f"scope='run' needs a folder for the socket of the run's servers: {error}. Name a "
                "temporary folder of your own by TMPDIR"
            ) from error
        self._path = folder / f"{_digest(self._run)}-{_digest(found)}{_SOCKET}"

    def ask(self, request: Mapping[str, Any], *, alias: str, stopping: threading.Event) -> Any:
        """What the keeper answers, which is begun if there is none.

        Raises:
            ServiceError: It does not answer, or ends instead; or nobody waits any more.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with contextlib.closing(self._connected()) as connection:
                    warm.send(connection, request)
                    answer = {"wait": _PATIENCE}
                    while "wait" in answer:
                        if stopping.is_set():
                            raise ServiceError(
                                f"{alias} was not waited for: another failed", service=alias
                            )
                        connection.settimeout(answer["wait"])
                        answer = warm.receive(connection)
                    return answer
            except TimeoutError as error:
                raise self._silent(alias, "does not answer") from error
            except (OSError, EOFError) as error:
                if attempt == _ATTEMPTS:
                    raise self._silent(alias, "ended, again and again") from error
        raise AssertionError  # the last attempt returns or raises

    def _silent(self, alias: str, what: str) -> ServiceError:
        return ServiceError(
            f"{alias}: the process that keeps the servers of this run {what}. Its log is "
            f"{self._path.with_name('log')}",
            service=alias,
        )

    def _connected(self) -> socket.socket:
        with contextlib.suppress(OSError):
            return warm.connected(str(self._path))
        with warm.locked():  # who comes second finds the first one's
            with contextlib.suppress(OSError):
                return warm.connected(str(self._path))
            self._begin()
        return warm.connected(str(self._path))

    def _begin(self) -> None:
        """Begin a keeper; who connects meanwhile waits in the socket that it inherits."""
        self._path.unlink(missing_ok=True)
        order = {"path": warm.modules_path(), "run": self._run, "socket": str(self._path)}
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self._path))
            self._path.chmod(0o600)
            listener.listen(_BACKLOG)
            warm.spawn(
                "orchestrator.environment.run_keeper",
                order,
                inherits=listener.fileno(),
                environ=os.environ,
            )


class SharedServers:
    """Where the services of one class with ``scope="run"`` come from.

    Args:
        services: Alias to declaration, of all of the class.
        test_class: The class's full name.
        settings: What the environment variables ask for.
        stopping: Set when nobody waits any more, because another service failed.
    """

    def __init__(
        self,
        services: Mapping[str, Service],
        *,
        test_class: str,
        settings: Settings,
        stopping: threading.Event,
    ) -> None:
        self._stopping = stopping
        self._services = services
        self._test_class = test_class
        self._settings = settings
        self._endpoint = find_endpoint()
        self._keeper = KeeperOfRun(settings, self._endpoint)

    def take_all(self, ending: OwnStack) -> Mapping[Service, Service]:
        """Have parts of servers for a class that has no others: declaration to handle.

        Nothing is asked of the engine from here, unless a test does. `ending` gives them back.
        """
        drivers = [name for it in self._services.values() for name in it.client_modules]
        found: dict[str, futures.Future[Service]] = {}
        with futures.ThreadPoolExecutor(len(self._services) + 1, "orchestrator-start") as pool:
            pool.submit(load_early, drivers)

            def take(alias: str) -> Service:
                for other in needed(alias, self._services):
                    found[other].result()
                return self.part(self.obtain(alias, None, ending), ending)

            try:
                for alias in in_order(self._services):
                    found[alias] = pool.submit(take, alias)
                steps = found.values()
                for step in futures.wait(steps, return_when=futures.FIRST_EXCEPTION).done:
                    step.result()
            except BaseException:
                self._stopping.set()
                raise
        return {self._services[alias]: it.result() for alias, it in found.items()}

    def obtain(self, alias: str, engine: Engine | None, ending: OwnStack) -> Service:
        """The handle of a running server, started by the keeper unless another was first.

        Args:
            alias: Whose.
            engine: What the handle speaks to the daemon by; without, one of its own if need be.
            ending: Closes that.

        Raises:
            OrchestratorError: It could not be started, perhaps for another class.
        """
        declaration = self._services[alias]
        root = _root()
        if root.pid == os.getpid():
            _LEAVING.register(root.pid, run=_run_id(self._settings))
        request = {"do": "share", "root": root, **self._described(alias)}
        with telling(f"{self._test_class}: {alias}", "waiting for the run's server"):
            answer = self._keeper.ask(request, alias=alias, stopping=self._stopping)
        if "error" in answer:
            raise answer["error"]
        given: warm.Handed = answer["server"]
        if engine is None:
            late = warm.LateEngine(self._settings, self._endpoint, answer["engine"])
            ending.callback(late.close)
            engine = cast("Engine", late)
        runtime = Runtime(engine=engine, helper=_no_helper, **given.runtime)
        return declaration.copy_with(_runtime=runtime, **given.values)

    def _described(self, alias: str) -> Mapping[str, Any]:
        """What is asked for, as another process understands it.

        Raises:
            DeclarationError: It cannot be told to another process.
        """
        declaration = self._services[alias]
        needs = {name: self._key(name) for name in needed(alias, self._services)}
        packed = _Packed()
        try:
            body = packed.of(declaration.copy_with(depends_on=()))
            key = self._key(alias)
        except (UnlikeError, pickle.PicklingError, AttributeError, TypeError) as error:
            raise DeclarationError(
                f"{alias} cannot have scope='run': the process that starts it for all cannot be "
                f"told what it is ({error}). Use functions and classes that stand in a module; "
                "or scope='process'"
            ) from error
        return {
            "alias": alias,
            "key": key,
            "needs": needs,
            "declaration": body,
            "files": packed.files,
            "path": warm.modules_path(),
            "first": self._test_class,
        }

    def _key(self, alias: str) -> str:
        """Equal where servers may be one: the same attribute, declared the same."""
        wanted, needs = [alias], [alias]
        while needs:
            needs = [name for it in needs for name in needed(it, self._services)]
            wanted += needs
        declared = {name: self._services[name] for name in wanted}
        return described(declared, lock=lock_path(self._settings))

    def part(self, handle: Service, ending: OwnStack) -> Service:
        """The class's part of a server; `ending` drops it."""
        from orchestrator.environment.launch import ending_well

        state = handle.shared(f"{PART}{secrets.token_hex(6)}")
        part = ending.enter_context(ending_well(handle, state, of="class"))
        ending.callback(part.release)
        return part


class _Packed:
    """A declaration as bytes, and the files of the modules that its functions stand in."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}

    def of(self, declaration: Service) -> bytes:
        """Pack it."""
        import io

        buffer, files = io.BytesIO(), self.files

        class Pickler(warm.Pickler):
            def reducer_override(self, value: Any) -> Any:
                name = getattr(value, "__module__", None)
                file = getattr(sys.modules.get(str(name)), "__file__", None)
                if file is not None and hasattr(value, "__qualname__"):
                    files[str(name)] = file
                return super().reducer_override(value)

            def persistent_id(self, value: Any) -> str | None:
                return _STREAM if isinstance(value, io.TextIOBase) else None

        Pickler(buffer).dump(declaration)
        return buffer.getvalue()


_STREAM: Final = "stream"
"""Stands for a stream, such as stdout, which an Alembic ``Config`` keeps."""


def _no_helper(*_: object, **__: object) -> Any:
    raise OrchestratorError("a server that others use has no helper containers")


# The end of a run


class _Leaving:
    """Has the run end with this process, where it is nobody's worker."""

    def __init__(self) -> None:
        self._process = 0

    def register(self, pid: int, *, run: str) -> None:
        """Once is enough; a forked child is a run itself."""
        if self._process != pid:
            self._process = pid
            atexit.register(_leave, pid, run)


_LEAVING: Final = _Leaving()


def _leave(pid: int, run: str) -> None:
    if os.getpid() == pid:
        end_run(run)


def end_run(run: str) -> None:
    """Tell the keepers of a run that for this process it is over; return when all is gone."""
    with contextlib.suppress(OSError):
        for path in sorted(Path(warm.folder()).glob(f"{_digest(run)}-*{_SOCKET}")):
            warm.ask(path, seconds=_END, do="leave", root=os.getpid())
