"""Servers that were made ready before anybody asked, and the processes that keep them.

With ``ORCHESTRATOR_WARM``, a class that ends has a *keeper* made: a process that starts the same
servers once more, as soon as this process has ended, and keeps them, unused, for the next run of
the class. Here is what a test process does: find the keeper, take over what it has, have the next
one made. What a keeper does is in `keeper`. README.md here tells of both.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import io
import json
import logging
import os
import pickle
import socket
import struct
import sys
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from orchestrator.engine import connect, find_endpoint
from orchestrator.environment.context import write_log
from orchestrator.environment.likeness import UnlikeError, described, newest_module
from orchestrator.errors import OrchestratorError
from orchestrator.files import private_folder
from orchestrator.images.lockfile import lock_path
from orchestrator.services.hooks import Runtime
from orchestrator.services.once import OwnStack, locked_property
from orchestrator.services.service import Service, join
from orchestrator.sessions.identity import hold, process_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from orchestrator.engine import Endpoint
    from orchestrator.engine.docker import Engine
    from orchestrator.settings import Settings

MOST: Final = 4
"""How many classes are kept ready for one user, and asked for by one process."""
_SOCKET: Final = ".sock"
_LONGEST_PATH: Final = 100  # bytes of a socket's; systems end at 104 or 108
_LENGTH: Final = struct.Struct("!I")
_PATIENCE: Final = 2.0  # seconds for a first answer
_REMOVAL: Final = 30.0  # seconds for one that comes after a removal
INHERITED: Final = 3  # the descriptor that a keeper begins with
_MAIN: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1])['path']; from {} import main; main()"
)
# What a keeper has no use for.
_OF_A_RUN: Final = (
    *("ORCHESTRATOR_RUN", "ORCHESTRATOR_PROGRESS"),
    *("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"),
)
_OURS: Final = f"{__package__.partition('.')[0]}."
_log: Final = logging.getLogger("orchestrator.environment")


# Where keepers are found


def folder() -> Path:
    """The folder of this user's keepers, which nobody else can look into.

    Raises:
        OSError: It cannot be made, or is not this user's.
    """
    name = f"orchestrator-{os.geteuid()}"
    place = Path(os.environ.get("TMPDIR") or "/tmp") / name  # noqa: S108 - it is checked
    if len(os.fsencode(place)) > _LONGEST_PATH - 40:
        place = Path("/tmp") / name  # noqa: S108
    return private_folder(place)


def keepers() -> Sequence[Mapping[str, Any]]:
    """What each of this user's keepers says of itself."""
    try:
        paths = sorted(folder().glob(f"*{_SOCKET}"))
    except OSError:
        return []
    said = ((path, ask(path, do="status")) for path in paths)
    return [{**it, "socket": str(path)} for path, it in said if it is not None]


def ask(path: Path | str, *, seconds: float = _PATIENCE, **request: object) -> Any:
    """A keeper's answer; None where there is none. What a dead one has left is removed."""
    try:
        with closing(connected(str(path))) as connection:
            connection.settimeout(seconds)
            send(connection, request)
            return receive(connection)
    except ConnectionRefusedError:
        with suppress(OSError):
            os.unlink(path)  # noqa: PTH108
    except (OSError, EOFError, pickle.UnpicklingError):
        pass
    return None


def connected(path: str) -> socket.socket:
    """A connection to a process of this very user.

    Raises:
        OSError: There is none.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(_PATIENCE)
        connection.connect(path)
        check_peer(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def check_peer(connection: socket.socket) -> int:
    """The process at the other end, 0 where the system does not tell.

    Raises:
        PermissionError: It is another user's.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:  # macOS: the folder keeps everybody else out
        return 0
    packed = connection.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i"))
    pid, user, _ = struct.unpack("3i", packed)
    if user != os.geteuid():
        raise PermissionError(f"the process at the other end is of user {user}")
    return int(pid)


def modules_path() -> Sequence[str]:
    """Where this process finds modules, for one in another folder."""
    return [os.path.abspath(it) for it in sys.path]  # noqa: PTH100


def stop(path: Path | str) -> bool:
    """End a keeper that nobody uses; whether it has removed everything."""
    return bool((ask(path, seconds=_REMOVAL, do="stop") or {}).get("stopped"))


def send(connection: socket.socket, message: object) -> None:
    """Write one message."""
    body = _packed(message)
    connection.sendall(_LENGTH.pack(len(body)) + body, getattr(socket, "MSG_NOSIGNAL", 0))


def receive(connection: socket.socket) -> Any:
    """Read one message.

    Raises:
        EOFError: There is none any more.
    """
    [length] = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    return pickle.loads(_exactly(connection, length))  # noqa: S301 - of this user's own process


def _answered(connection: socket.socket) -> Any:
    """What a keeper gives to whoever takes it over; they may still be being made.

    Raises:
        UnlikeError: Nothing, and why.
    """
    answer = receive(connection)
    if "wait" in answer:
        connection.settimeout(answer["wait"])
        answer = receive(connection)
    if "no" in answer:
        raise UnlikeError(answer["no"])
    return answer


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


class Pickler(pickle.Pickler):
    """Leaves out what our values have computed and kept, such as an `ssl.SSLContext`."""

    def reducer_override(self, value: Any) -> Any:
        """Take the fields alone."""
        kind = type(value)
        ours = kind.__module__.startswith(_OURS) or isinstance(value, Service)
        if not dataclasses.is_dataclass(kind) or not ours:
            return NotImplemented
        names = [item.name for item in dataclasses.fields(kind)]
        return _rebuilt, (kind, {name: getattr(value, name) for name in names})


def _rebuilt(kind: type, values: Mapping[str, Any]) -> Any:
    made: Any = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def _packed(message: object) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer).dump(message)
    return buffer.getvalue()


# What is handed over


@dataclass(frozen=True, kw_only=True)
class Handed:
    """One running service on its way to another process: what its handle has of its own."""

    runtime: Mapping[str, Any]
    values: Mapping[str, Any]


_OF_A_PROCESS: Final = ("engine", "helper", "isolated", "snapshot")


def handed(declaration: Service, handle: Service) -> Handed:
    """What another process needs to have the same handle."""
    runtime = handle.running
    # As for one more class: what it opens is its own.
    fresh = join(handle, runtime)
    return Handed(
        runtime={
            item.name: getattr(runtime, item.name)
            for item in dataclasses.fields(runtime)
            if item.name not in _OF_A_PROCESS
        },
        values={
            item.name: value
            for item in dataclasses.fields(fresh)
            if item.name != "_runtime"
            and (value := getattr(fresh, item.name)) is not getattr(declaration, item.name)
        },
    )


class LateEngine:
    """An engine that is opened when something is asked of it: docker-py takes long to import."""

    def __init__(self, settings: Settings, endpoint: Endpoint, known: Mapping[str, str]) -> None:
        self._settings = settings
        self.endpoint = endpoint
        self.host = known["host"]
        self.bind_address = known["bind_address"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)

    @property
    def answered(self) -> bool:
        """Whether the daemon has answered: somebody's servers run on it."""
        return True

    @locked_property
    def _opened(self) -> Engine:
        return connect(self._settings, endpoint=self.endpoint)

    def close(self) -> None:
        """Close what was opened."""
        if "_opened" in vars(self):
            self._opened.close()


# A class that may have a keeper


class Origin:
    """The class whose services an environment runs, where they may come from a keeper.

    Args:
        cls: The class.
        services: Alias to declaration.
        settings: What the environment variables ask for.
    """

    def __init__(self, cls: type, *, services: Mapping[str, Service], settings: Settings) -> None:
        self._cls = cls
        self._services = services
        self._settings = settings
        self._environ = dict(os.environ)  # tests may change it
        self._process = os.getpid()

    def take(self, ending: OwnStack) -> Mapping[Service, Service] | None:
        """Take over what a keeper has ready: declaration to handle; None when nothing fits.

        `ending` gives it back.
        """
        try:
            declared = described(self._services, lock=lock_path(self._settings))
            connection = connected(str(folder() / f"{self._key}{_SOCKET}"))
        except (OSError, UnlikeError, OrchestratorError) as error:
            _log.debug("%s is not warm: %s", self._cls.__qualname__, error)
            return None
        try:
            send(
                connection,
                {
                    "do": "take",
                    "declared": declared,
                    "environ": self._environ,
                    "started": _process_began(),
                    "newest": newest_module(),
                },
            )
            answer = _answered(connection)
            held: list[int] = []
            if answer["watchdogs"]:
                held = socket.recv_fds(connection, 1, answer["watchdogs"])[1]
            for descriptor in held:
                os.set_inheritable(descriptor, False)  # noqa: FBT003 - its only argument
            if (holder := hold(answer["session"])) is not None:
                held.append(holder.detach())
            handles = self._bound(answer, ending)
        except Exception as error:  # noqa: BLE001 - whatever it is, a start of one's own is right
            connection.close()
            _log.info("%s is not warm: %s", self._cls.__qualname__, error)
            return None
        ending.callback(_give_back, connection, held)
        self._callbacks(ending, handles)
        return handles

    def _bound(self, answer: Mapping[str, Any], ending: OwnStack) -> Mapping[Service, Service]:
        late = LateEngine(self._settings, self._endpoint, answer["engine"])
        engine = cast("Engine", late)
        ending.callback(late.close)
        handles = {}
        for alias, declaration in self._services.items():
            given: Handed = answer["services"][alias]
            runtime = Runtime(engine=engine, helper=self._helper(engine), **given.runtime)
            handles[declaration] = declaration.copy_with(_runtime=runtime, **given.values)
        return handles

    def _helper(self, engine: Engine) -> Callable[..., Any]:
        """Runs helper containers, of a session of this process, when the first is asked for."""

        def helper(beside: str, /, **more: Any) -> Any:
            from orchestrator.environment.context import StartContext
            from orchestrator.images import find_lock
            from orchestrator.sessions import own_session

            context = StartContext(
                engine=engine,
                session=own_session(engine, settings=self._settings),
                settings=self._settings,
                lock=find_lock(self._settings),
                test_class=self._name,
                network="",
            )
            return context.helper_container(beside, **more)

        return helper

    def _callbacks(self, ending: OwnStack, handles: Mapping[Service, Service]) -> None:
        from orchestrator.environment.launch import release

        if self._settings.logs is not None:
            ending.callback(self._keep_logs, self._settings.logs, handles)
        for handle in handles.values():
            ending.callback(release, handle)

    def _keep_logs(self, place: Path, handles: Mapping[Service, Service]) -> None:
        for handle in handles.values():
            try:
                write_log(place, test_class=self._name, alias=handle.alias, text=handle.logs())
            except (OrchestratorError, OSError) as error:
                _log.warning("the log of %s was not kept: %s", handle.alias, error)

    @locked_property
    def _endpoint(self) -> Endpoint:
        return find_endpoint()

    def make_next(self) -> None:
        """Have a keeper made, which begins when this process has ended.

        Whatever goes wrong, the next run starts normally.
        """
        if os.getpid() != self._process:
            return  # a forked child
        module = sys.modules.get(self._cls.__module__)
        order = {
            "path": modules_path(),
            "module": self._cls.__module__,
            "file": getattr(module, "__file__", None),
            "class": self._cls.__qualname__,
            "seconds": self._settings.warm,
        }
        try:
            folder()
            order["key"] = self._key
            _BEGINNINGS.spawn(order, environ=self._environ)
        except (OSError, OrchestratorError) as error:
            _log.info("nothing is kept warm for %s: %s", self._cls.__qualname__, error)

    @property
    def _name(self) -> str:
        return f"{self._cls.__module__}.{self._cls.__qualname__}"

    @locked_property
    def _key(self) -> str:
        """What tells keepers apart."""
        path = modules_path()
        found = (self._name, os.getcwd(), path, sys.executable, sys.version, self._endpoint.url)  # noqa: PTH109
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:20]


def may_be_warm(services: Mapping[str, Service], settings: Settings) -> bool:
    """Whether servers of these declarations can be somebody else's before: theirs alone.

    What a service of the user's does in Python when it is ready, it has to do in this process.
    """
    return (
        settings.warm > 0
        and not settings.keep_failed
        and settings.timeline is None
        and all(
            service.scope == "class"
            and service.log_to is None
            and all(
                getattr(type(service), hook).__module__.startswith(_OURS)
                for hook in ("started", "prepare", "_bound", "_joined")
            )
            for service in services.values()
        )
    )


def spawn(
    module: str, order: Mapping[str, Any], *, inherits: int, environ: Mapping[str, str]
) -> None:
    """Start a keeper, which is nobody's child: ``main`` of a module of ours.

    Args:
        module: Its full name.
        order: What it is told; its ``path`` is that of modules.
        inherits: The descriptor that it has as `INHERITED`.
        environ: Its environment variables, and those of a run, which it has no use for.
    """
    from subprocess import _args_from_interpreter_flags  # type: ignore[attr-defined]

    code = _MAIN.format(module)
    argv = [sys.executable, *_args_from_interpreter_flags(), "-c", code, json.dumps(order)]
    pid = os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", '"$@" >/dev/null 2>&1 &', "sh", *argv],
        {name: it for name, it in environ.items() if name not in _OF_A_RUN},
        file_actions=[(os.POSIX_SPAWN_DUP2, inherits, INHERITED)],
        setsid=True,  # at once: the runner kills all that is left in the group of a worker
    )
    os.waitpid(pid, 0)


@contextmanager
def locked(name: str = "lock") -> Iterator[None]:
    """Hold a lock of this user's keepers, and of who looks for one."""
    with (folder() / name).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _give_back(connection: socket.socket, held: Sequence[int]) -> None:
    """Let the keeper remove it all; a forked child may hold the connection, too."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
    for descriptor in held:
        os.close(descriptor)


def _process_began() -> float:
    """When this process started, in seconds since the epoch."""
    try:
        ticks = process_start("self")
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        return time.time() - uptime + (ticks or 0) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return _IMPORTED


_IMPORTED: Final = time.time()


class _Beginnings:
    """The pipe whose end tells keepers that this process has ended, and how many wait for that."""

    def __init__(self) -> None:
        self._process = 0
        self._pipe = -1
        self._asked: set[str] = set()

    def spawn(self, order: Mapping[str, Any], *, environ: Mapping[str, str]) -> None:
        """Start a keeper, which is nobody's child."""
        if self._process != os.getpid():  # a forked child has an end of its own
            self._process, self._asked = os.getpid(), set()
            self._pipe, self._held = os.pipe()
        if order["key"] in self._asked or len(self._asked) >= MOST or not sys.executable:
            return
        self._asked.add(order["key"])
        spawn("orchestrator.environment.keeper", order, inherits=self._pipe, environ=environ)


_BEGINNINGS: Final = _Beginnings()
