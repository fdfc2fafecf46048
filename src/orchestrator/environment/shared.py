"""Servers that classes share: of a process (``scope="process"``), and of a run (``scope="run"``).

Those of a process are started by the class that needs them first. Those of a run have a keeper, a
process of its own (`run_keeper`): here it is begun, and asked where a server is. Each class then
has a part of that: what `Hooks.shared` gives, for our own services with names and rights of its
own.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import io
import json
import os
import pickle
import secrets
import socket
import sys
import weakref
from concurrent import futures
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from orchestrator.engine import find_endpoint
from orchestrator.environment import keeper
from orchestrator.environment.late_engine import LateEngine
from orchestrator.environment.launch import ending_well, launch, release
from orchestrator.environment.warm import described
from orchestrator.errors import DeclarationError, OrchestratorError, ServiceError
from orchestrator.images.lockfile import lock_path
from orchestrator.progress import telling
from orchestrator.services.hooks import PART, host_names
from orchestrator.services.service import join, needed
from orchestrator.sessions import is_supervised
from orchestrator.sessions.identity import process_start, this_process

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.environment.context import StartContext
    from orchestrator.services.once import OwnStack
    from orchestrator.services.service import Service
    from orchestrator.sessions import Session

_SOCKET: Final = ".run"
_ATTEMPTS: Final = 3  # one keeper may be about to end, and another be killed
WAIT: Final = 30.0
"""Seconds between two words of a keeper, at most."""
_END: Final = 30.0  # seconds that it has to answer when the run is over
_BACKLOG: Final = 64
_STREAM: Final = "stream"  # stands for one, such as stdout, which an Alembic Config keeps


# A server apart: of no class, on a network of its own


def apart(alias: str, context: StartContext) -> StartContext:
    """Where it is started."""
    # Docker publishes ports through a container's first network, by name: if that were a class's,
    # its coming and going would break connections.
    first = context.session.id[:8]
    network = context.session.name(f"shared-{alias}").replace(first, f"-{first}", 1)
    own = context.for_test()
    return replace(own, test_class="", network=network, stopping=context.stopping)


def start_apart(
    declaration: Service, alias: str, own: StartContext, *, needs: Mapping[str, Service]
) -> Service:
    """Start it there; those that it needs, by alias, join its network."""

    def network() -> None:
        own.create_network()
        for name, handle in needs.items():
            container, names = handle.running.container, host_names(name)
            own.engine.connect_network(own.network, container=container, aliases=names)

    with futures.ThreadPoolExecutor(1, "orchestrator-start") as pool:
        return launch(declaration, alias, own, await_network=pool.submit(network).result)


def joined(server: Service, alias: str, context: StartContext) -> Service:
    """A class's handle of such a server, reachable by alias on the class's network, if it has one.

    It leaves that network when the network is removed.
    """
    runtime, names = server.running, host_names(alias)
    networks = {**runtime.networks}
    if network := context.network:
        runtime.engine.connect_network(network, container=runtime.container, aliases=names)
        networks[network] = names
    return join(server, replace(runtime, alias=alias, networks=networks))


def has_ended(handle: Service) -> bool:
    """Whether a server serves nobody any more, as far as the daemon tells."""
    try:
        state = handle.state()
    except OrchestratorError:
        return False
    return state is None or state.ended


# Of a process: one server for each declaration, whichever class needs it first

_OF_PROCESS: Final[weakref.WeakKeyDictionary[Session, dict[Service, StartContext]]] = (
    weakref.WeakKeyDictionary()
)
"""Where each was started; a forked child has a session, and so services, of its own."""


def of_process(declaration: Service, alias: str, context: StartContext) -> Service:
    """The one server of a declaration: started unless an earlier class did and it still runs."""
    running = _OF_PROCESS.setdefault(context.session, {})
    if declaration in running:
        handle = running[declaration].bound[-1]
        if not has_ended(handle):
            return handle
        _end_of_process(running.pop(declaration), remove=True)
    engine = LateEngine(context.settings, context.session.endpoint)
    own = replace(apart(alias, context), engine=engine)
    try:
        handle = start_apart(declaration, alias, own, needs={})
    except BaseException:
        _end_of_process(own, remove=True)
        raise
    running[declaration] = own
    atexit.register(_end_of_process, own, remove=False)  # the session removes containers after us
    return handle


def _end_of_process(own: StartContext, *, remove: bool) -> None:
    if os.getpid() != own.session.owner.pid:
        return  # a forked child shares our connections
    with contextlib.closing(own.engine):
        for handle in own.bound:
            with contextlib.suppress(OrchestratorError):  # it may have ended long ago
                release(handle)
        own.keep_logs()
        if remove:
            own.clear()


# Of a run, as a test process sees it


@dataclass(frozen=True, kw_only=True)
class Root:
    """A process whose end is the run's end, if no other is left."""

    pid: int
    start: int

    @property
    def lives(self) -> bool:
        """Whether it has not ended, as far as can be told."""
        try:
            return process_start(self.pid) == self.start
        except OSError:
            return True


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


class ServersOfRun:
    """Where the services of one class with ``scope="run"`` come from.

    Args:
        services: Alias to declaration, of all of the class.
        context: The class's.
    """

    def __init__(self, services: Mapping[str, Service], context: StartContext) -> None:
        self._services = services
        self._context = context
        # What all processes of a run have in common; one that is none's worker is a run itself.
        self._run = context.settings.run_of_workers or this_process().to_label()
        asked = sorted(
            (name, it)
            for name, it in os.environ.items()
            if name.startswith(keeper.OF_SERVERS) and name not in keeper.OF_THE_RUN
        )
        where = (os.getcwd(), sys.executable, sys.version, find_endpoint().url)  # noqa: PTH109
        try:
            folder = keeper.folder()
        except OSError as error:
            raise OrchestratorError(
                f"scope='run' needs a folder for the socket of the run's servers: {error}. Name a "
                "temporary folder of your own by TMPDIR"
            ) from error
        self._path = folder / f"{_digest(self._run)}-{_digest((*where, asked))}{_SOCKET}"

    def obtain(self, alias: str) -> Service:
        """The handle of a running server, started by the keeper unless another was first.

        Raises:
            OrchestratorError: It could not be started, perhaps for another class.
        """
        root, context = _root(), self._context
        if root.pid == os.getpid():
            _end_with_process(root.pid, self._run)
        request = {"do": "share", "root": root, **self._request(alias)}
        with telling(f"{context.test_class}: {alias}", "waiting for the run's server"):
            answer = self._ask(request, alias=alias)
        if "error" in answer:
            raise answer["error"]
        context.engine.know(answer["engine"])
        return keeper.taken(self._services[alias], answer["server"], context)

    def part(self, server: Service, ending: OwnStack) -> Service:
        """The class's part of a server; `ending` drops it."""
        state = server.shared(f"{PART}{secrets.token_hex(6)}")
        part = ending.enter_context(ending_well(server, state, of="class"))
        ending.callback(part.release)
        return part

    def _request(self, alias: str) -> Mapping[str, Any]:
        """What is asked for, as another process understands it.

        Raises:
            DeclarationError: It cannot be told to another process.
        """
        packed = io.BytesIO()
        packer = _Packer(packed)
        try:
            packer.dump(self._services[alias].copy_with(depends_on=()))
            key = self._key(alias)
        except (keeper.UnlikeError, pickle.PicklingError, AttributeError, TypeError) as error:
            raise DeclarationError(
                f"{alias} cannot have scope='run': the process that starts it for all cannot be "
                f"told what it is ({error}). Use functions and classes that stand in a module; "
                "or scope='process'"
            ) from error
        return {
            "alias": alias,
            "key": key,
            "needs": {name: self._key(name) for name in needed(alias, self._services)},
            "declaration": packed.getvalue(),
            "files": packer.files,
            "path": keeper.modules_path(),
            "first": self._context.test_class,
        }

    def _key(self, alias: str) -> str:
        """Equal where servers may be one: the same attribute, declared the same."""
        wanted, needs = [alias], [alias]
        while needs:
            needs = [name for it in needs for name in needed(it, self._services)]
            wanted += needs
        declared = {name: self._services[name] for name in wanted}
        return described(declared, lock=lock_path(self._context.settings))

    def _ask(self, request: Mapping[str, Any], *, alias: str) -> Any:
        """What the keeper answers, which is begun if there is none.

        Raises:
            ServiceError: It does not answer, or ends instead; or nobody waits any more.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with contextlib.closing(self._connected()) as connection:
                    keeper.send(connection, request)
                    answer = {"wait": WAIT}
                    while "wait" in answer:
                        if self._context.stopping.is_set():
                            raise ServiceError(
                                f"{alias} was not waited for: another failed", service=alias
                            )
                        connection.settimeout(answer["wait"])
                        answer = keeper.receive(connection)
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
            return keeper.connected(self._path)
        with keeper.locked():  # who comes second finds the first one's
            with contextlib.suppress(OSError):
                return keeper.connected(self._path)
            self._path.unlink(missing_ok=True)
            # Who connects before the keeper answers waits in the socket that it inherits.
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(self._path))
                self._path.chmod(0o600)
                listener.listen(_BACKLOG)
                order = {
                    "run": self._run,
                    "socket": str(self._path),
                    "root": asdict(_root()),
                }
                inherits = listener.fileno()
                keeper.spawn("run_keeper", order, inherits=inherits, environ=os.environ)
        return keeper.connected(self._path)


class _Packer(pickle.Pickler):
    """Packs a declaration, and notes the files of the modules that its functions stand in."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.files: dict[str, str] = {}

    def reducer_override(self, value: Any) -> Any:
        name = getattr(value, "__module__", None)
        file = getattr(sys.modules.get(str(name)), "__file__", None)
        if file is not None and hasattr(value, "__qualname__"):
            self.files[str(name)] = file
        return NotImplemented

    def persistent_id(self, value: Any) -> str | None:
        return _STREAM if isinstance(value, io.TextIOBase) else None


@functools.cache  # once is enough; a forked child is a run itself
def _end_with_process(pid: int, run: str) -> None:
    """Have the run end with this process, which is nobody's worker."""

    def leave() -> None:
        if os.getpid() == pid:
            end_run(run)

    atexit.register(leave)


def end_run(run: str) -> None:
    """Tell the keepers of a run that for this process it is over; return when all is gone."""
    with contextlib.suppress(OSError):
        for path in sorted(keeper.folder().glob(f"{_digest(run)}-*{_SOCKET}")):
            keeper.ask(path, seconds=_END, do="leave", root=os.getpid())
