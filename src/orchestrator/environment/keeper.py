"""Keepers: processes apart that keep servers for the test processes of one user.

`warm` has them keep servers for the next run of a class, `shared` those that a whole run works
with. What both need is here: how a keeper is begun, found and spoken to, and what it hands over.
Sockets are in a folder that only this user can open.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib
import importlib.util
import json
import os
import pickle
import socket
import struct
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.files import private_folder
from orchestrator.services.hooks import Runtime
from orchestrator.services.service import join

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.engine.docker import Engine
    from orchestrator.environment.context import StartContext
    from orchestrator.services.service import Service

PATIENCE: Final = 2.0
"""Seconds for one message between processes that live."""
INHERITED: Final = 3
"""The descriptor that a keeper begins with."""
_LONGEST_PATH: Final = 100  # bytes of a socket's; systems end at 104 or 108
_PAUSE: Final = 0.1  # seconds, where no descriptor is free
_LENGTH: Final = struct.Struct("!I")
_LONGEST_LOG: Final = 1 << 16
MAIN_MODULE: Final = "__mp_main__"
"""What a script is called where it is not run."""
_MAIN: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1])['path']; from {} import main; main()"
)
# What a keeper has no use for.
_NOT_HANDED_ON: Final = (
    *("ORCHESTRATOR_RUN", "ORCHESTRATOR_PROGRESS"),
    *("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"),
)
OF_THE_RUN: Final = frozenset(
    f"ORCHESTRATOR_{name}"
    for name in (
        *("RUN", "PROGRESS", "WARM", "LOGS", "TIMELINE", "LOG_LINES", "SKIP_WITHOUT_DOCKER"),
        "KEEP_FAILED",
    )
) | {"PYTHONHASHSEED"}  # the runner draws one for each run
"""Environment variables that concern the run, and not its servers."""
OF_SERVERS: Final = ("ORCHESTRATOR_", "DOCKER_")
"""What the other variables begin with on which servers may depend, whatever reads them."""


class UnlikeError(Exception):
    """Servers cannot be, or are not, those that a class would start itself."""


# Found and spoken to


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


@contextlib.contextmanager
def locked(name: str = "lock") -> Iterator[None]:
    """Hold a lock of this user's keepers, and of who looks for one."""
    with (folder() / name).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def connected(path: Path) -> socket.socket:
    """A connection to a keeper of this very user.

    Raises:
        OSError: There is none.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(PATIENCE)
        connection.connect(str(path))
        _check_peer(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_peer(connection: socket.socket) -> int:
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


def ask(path: Path, *, seconds: float = PATIENCE, **request: object) -> Any:
    """A keeper's answer; None where there is none. What a dead one has left is removed."""
    try:
        with contextlib.closing(connected(path)) as connection:
            connection.settimeout(seconds)
            send(connection, request)
            return receive(connection)
    except ConnectionRefusedError:
        with contextlib.suppress(OSError):
            path.unlink()
    except (OSError, EOFError, pickle.UnpicklingError):
        pass
    return None


def send(connection: socket.socket, message: object) -> None:
    """Write one message."""
    body = pickle.dumps(message)
    connection.sendall(_LENGTH.pack(len(body)) + body, getattr(socket, "MSG_NOSIGNAL", 0))


def receive(connection: socket.socket) -> Any:
    """Read one message.

    Raises:
        EOFError: There is none any more.
    """
    [length] = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    return pickle.loads(_exactly(connection, length))  # noqa: S301 - of this user's own process


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


# Begun


def modules_path() -> Sequence[str]:
    """Where this process finds modules, for one in another folder."""
    return [os.path.abspath(it) for it in sys.path]  # noqa: PTH100


def spawn(
    module: str, order: Mapping[str, Any], *, inherits: int, environ: Mapping[str, str]
) -> None:
    """Begin a keeper, which is nobody's child: ``main`` of a module of this package.

    Args:
        module: Its name.
        order: What it is told.
        inherits: The descriptor that it has as `INHERITED`.
        environ: Its environment variables, and those of a run, which it has no use for.
    """
    from subprocess import _args_from_interpreter_flags  # type: ignore[attr-defined]

    code, told = _MAIN.format(f"{__package__}.{module}"), {"path": modules_path(), **order}
    argv = [sys.executable, *_args_from_interpreter_flags(), "-c", code, json.dumps(told)]
    pid = os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", '"$@" >/dev/null 2>&1 &', "sh", *argv],
        {name: it for name, it in environ.items() if name not in _NOT_HANDED_ON},
        file_actions=[(os.POSIX_SPAWN_DUP2, inherits, INHERITED)],
        setsid=True,  # at once: the runner kills all that is left in the group of a worker
    )
    os.waitpid(pid, 0)


def begin() -> Mapping[str, Any]:
    """Be a keeper, apart from every terminal and job: what it is told."""
    with contextlib.suppress(OSError):
        os.setsid()
    order: Mapping[str, Any] = json.loads(sys.argv[1])
    sys.argv[1:] = []
    path = folder() / "log"
    fresh = os.O_TRUNC if path.exists() and path.stat().st_size > _LONGEST_LOG else 0
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | fresh, 0o600)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.set_inheritable(INHERITED, False)  # noqa: FBT003 - its only argument
    return order


def note(text: str) -> None:
    """Write to the keepers' log."""
    sys.stderr.write(f"{os.getpid()}: {text}\n")
    sys.stderr.flush()


def imported(name: str, file: str | None) -> Any:
    """A module as another process has it, with that name from that file."""
    if name == "__main__":  # a script, which must not run its tests here
        module: Any = None
        spec = importlib.util.spec_from_file_location(MAIN_MODULE, file) if file else None
    else:
        spec = None
        try:
            module = importlib.import_module(name)
        except ImportError:
            module = None
        if file is not None and getattr(module, "__file__", None) != file:
            spec = importlib.util.spec_from_file_location(name, file)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        if name == "__main__":
            sys.modules["__main__"] = module
        spec.loader.exec_module(module)
    return module


class Keeper:
    """A process that keeps servers, and answers this user's processes until it is over."""

    def __init__(self, path: Path, listener: socket.socket) -> None:
        self.path = path
        self.listener = listener
        self.over = threading.Event()
        self.left = threading.Event()  # the place is free for another
        self.lock = threading.RLock()  # of what several requests change
        self._ending: list[socket.socket] = []  # who waits for all to be removed

    def run(self) -> None:
        """Keep servers, until it is over and they are gone."""
        inode = self.path.stat().st_ino
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            self.keep()
        finally:
            self.over.set()
            with contextlib.suppress(OSError), locked():
                if self.path.stat().st_ino == inode:  # after a long sleep it is another's
                    self.path.unlink()
            self.left.set()
            with contextlib.suppress(OSError):
                self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            self.remove()
        for connection in self._ending:
            with contextlib.suppress(OSError):
                send(connection, {"stopped": True})

    def keep(self) -> None:
        """Return when it is over."""
        raise NotImplementedError

    def remove(self) -> None:
        """Remove all servers, unfinished ones too."""
        raise NotImplementedError

    def answer(self, connection: socket.socket, request: Mapping[str, Any], pid: int) -> bool:
        """Answer one request, in a thread of its own; whether the connection stays open."""
        raise NotImplementedError

    def end(self, connection: socket.socket) -> bool:
        """Be over; the connection is told when all is gone."""
        self._ending.append(connection)
        self.over.set()
        return True

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                if self.over.wait(_PAUSE):
                    return
                continue
            threading.Thread(target=self._converse, args=[connection], daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(PATIENCE)
            pid = _check_peer(connection)
            stays = self.answer(connection, receive(connection), pid)
        except Exception as error:  # noqa: BLE001 - of the other side
            note(f"{type(error).__name__}: {error}")
            stays = False
        if not stays:
            connection.close()


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


def taken(declaration: Service, given: Handed, context: StartContext) -> Service:
    """The handle of a service that another process has handed over."""
    runtime = Runtime(engine=context.engine, helper=context.helper_container, **given.runtime)
    return declaration.copy_with(_runtime=runtime, **given.values)


def published(engine: Engine) -> Mapping[str, str]:
    """Where an engine publishes ports, for a `LateEngine`."""
    return {"host": engine.host, "bind_address": engine.bind_address}
