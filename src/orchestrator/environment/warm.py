"""Servers that were made ready before anybody asked, for the next run of their class.

With ``ORCHESTRATOR_WARM``, a class that ends has a keeper begun: a process that starts the same
servers once more, as soon as this process has ended. Here is what a test process does: find the
keeper, take over what it has, have the next one begin. What that does is in `warm_keeper`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import os
import re
import socket
import sys
import time
import types
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.engine import find_endpoint
from orchestrator.environment.context import StartContext
from orchestrator.environment.keeper import (
    MAIN_MODULE,
    UnlikeError,
    ask,
    connected,
    folder,
    modules_path,
    receive,
    send,
    spawn,
    taken,
)
from orchestrator.environment.late_engine import LateEngine
from orchestrator.environment.launch import is_ours, release
from orchestrator.errors import OrchestratorError
from orchestrator.images import find_lock
from orchestrator.images.lockfile import lock_path
from orchestrator.services.once import locked_property
from orchestrator.services.service import Service
from orchestrator.sessions.identity import hold, process_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orchestrator.engine import Endpoint
    from orchestrator.services.once import OwnStack
    from orchestrator.settings import Settings

MOST: Final = 4
"""How many classes are kept ready for one user, and asked for by one process."""
SOCKET: Final = ".sock"
_REMOVAL: Final = 30.0  # seconds for an answer that comes after a removal
_DEEPEST: Final = 40
_IMPORTED: Final = time.time()
_log: Final = logging.getLogger("orchestrator.environment")


def keepers() -> Sequence[Mapping[str, Any]]:
    """What each of this user's keepers says of itself."""
    try:
        paths = sorted(folder().glob(f"*{SOCKET}"))
    except OSError:
        return []
    said = ((path, ask(path, do="status")) for path in paths)
    return [{**it, "socket": str(path)} for path, it in said if it is not None]


def stop(path: str) -> bool:
    """End a keeper that nobody uses; whether it has removed everything."""
    return bool((ask(Path(path), seconds=_REMOVAL, do="stop") or {}).get("stopped"))


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
            and all(is_ours(service, hook) for hook in ("started", "prepare", "_bound", "_joined"))
            for service in services.values()
        )
    )


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
        self._name = f"{cls.__module__}.{cls.__qualname__}"

    def take(self, ending: OwnStack) -> Mapping[Service, Service] | None:
        """Take over what a keeper has ready: declaration to handle; None when nothing fits.

        `ending` gives it back.
        """
        try:
            declared = described(self._services, lock=lock_path(self._settings))
            connection = connected(folder() / f"{self._key}{SOCKET}")
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
            held = _held(connection, answer)
            late = LateEngine(self._settings, self._endpoint)
            late.know(answer["engine"])
            context = StartContext(
                engine=late,
                settings=self._settings,
                lock=find_lock(self._settings),
                test_class=self._name,
            )
            handles = {
                declaration: taken(declaration, answer["services"][alias], context)
                for alias, declaration in self._services.items()
            }
        except Exception as error:  # noqa: BLE001 - whatever it is, a start of one's own is right
            connection.close()
            _log.info("%s is not warm: %s", self._cls.__qualname__, error)
            return None
        context.bound.extend(handles.values())
        ending.callback(late.close)
        ending.callback(_give_back, connection, held)
        ending.callback(context.keep_logs)
        for handle in handles.values():
            ending.callback(release, handle)
        return handles

    def make_next(self) -> None:
        """Have a keeper begin, which starts servers when this process has ended.

        Whatever goes wrong, the next run starts normally.
        """
        if os.getpid() != self._process:
            return  # a forked child
        module = sys.modules.get(self._cls.__module__)
        try:
            folder()
            order = {
                "key": self._key,
                "module": self._cls.__module__,
                "file": getattr(module, "__file__", None),
                "class": self._cls.__qualname__,
                "seconds": self._settings.warm,
            }
            _BEGINNINGS.spawn(order, environ=self._environ)
        except (OSError, OrchestratorError) as error:
            _log.info("nothing is kept warm for %s: %s", self._cls.__qualname__, error)

    @locked_property
    def _endpoint(self) -> Endpoint:
        return find_endpoint()

    @locked_property
    def _key(self) -> str:
        """What tells keepers apart."""
        where = (os.getcwd(), modules_path(), sys.executable, sys.version)  # noqa: PTH109
        found = (self._name, *where, self._endpoint.url)
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:20]


def _answered(connection: socket.socket) -> Any:
    """What a keeper gives to whoever takes it over; the servers may still be being made.

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


def _held(connection: socket.socket, answer: Mapping[str, Any]) -> Sequence[int]:
    """Descriptors with which servers outlive their keeper, should that be killed."""
    held: list[int] = []
    if answer["watchdogs"]:
        held = socket.recv_fds(connection, 1, answer["watchdogs"])[1]
    for descriptor in held:
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - its only argument
    if (holder := hold(answer["session"])) is not None:
        held.append(holder.detach())
    return held


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


def newest_module() -> int:
    """When the newest module of this process was changed, of those that are not installed."""
    installed = (sys.base_prefix + "/lib/python", sys.prefix + "/lib/python")
    paths = [getattr(module, "__file__", None) for module in tuple(sys.modules.values())]
    newest = 0
    for path in {it for it in paths if isinstance(it, str) and not it.startswith(installed)}:
        with suppress(OSError):
            newest = max(newest, os.stat(path).st_mtime_ns)  # noqa: PTH116 - many of them
    return newest


class _Beginnings:
    """The pipe whose end tells keepers that this process has ended, and how many wait for that."""

    def __init__(self) -> None:
        self._process = 0
        self._pipe = -1
        self._asked: set[str] = set()

    def spawn(self, order: Mapping[str, Any], *, environ: Mapping[str, str]) -> None:
        """Begin a keeper, unless there are enough."""
        if self._process != os.getpid():  # a forked child has an end of its own
            self._process, self._asked = os.getpid(), set()
            self._pipe, self._held = os.pipe()
        if order["key"] in self._asked or len(self._asked) >= MOST or not sys.executable:
            return
        self._asked.add(order["key"])
        spawn("warm_keeper", order, inherits=self._pipe, environ=environ)


_BEGINNINGS: Final = _Beginnings()


# What a class declares


def described(services: Mapping[str, Service], *, lock: Path) -> str:
    """A digest of declarations, the same in every process in which they are the same.

    Args:
        services: Alias to declaration.
        lock: The lock file that names their images.

    Raises:
        UnlikeError: One has a value that two processes cannot compare.
    """
    names = {service: alias for alias, service in services.items()}
    text = [f"{alias}={_service(service, names)}" for alias, service in services.items()]
    return hashlib.sha256("\n".join([str(lock), *text]).encode(errors="replace")).hexdigest()


def _service(service: Service, names: Mapping[Service, str]) -> str:
    options = (
        f"{item.name}={_value(getattr(service, item.name), names, 0)}"
        for item in dataclasses.fields(service)
        if item.name != "_runtime"
    )
    return f"{_named(type(service))}({', '.join(options)})"


def _named(thing: Any) -> str:
    module = "__main__" if thing.__module__ == MAIN_MODULE else thing.__module__
    return f"{module}.{thing.__qualname__}"


def _value(value: Any, names: Mapping[Service, str], depth: int) -> str:  # noqa: C901, PLR0911
    """A value as text, all that is in it included."""
    if depth > _DEEPEST:
        raise UnlikeError("a declaration's value leads back to itself")

    def each(values: Iterable[Any]) -> str:
        return ", ".join(_value(it, names, depth + 1) for it in values)

    if isinstance(value, str):
        return str.__repr__(value)  # a subclass may hide it
    if isinstance(value, (bool, int, float, complex, bytes, re.Pattern, type(None))):
        return repr(value)
    if isinstance(value, os.PathLike):
        return f"path {os.fspath(value)!r}"
    if isinstance(value, Service):
        return f"service {names.get(value, '')}"
    if isinstance(value, (type, types.BuiltinFunctionType)):
        return _named(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{each([key])}: {each([it])}" for key, it in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{each(value)}]"
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(each([it]) for it in value)) + "}"
    return f"{_named(type(value))} {_object(value, each)}"


def _object(value: Any, each: Callable[[Iterable[Any]], str]) -> str:  # noqa: PLR0911
    """What makes a function, or another object, what it is."""
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        held = [*(value.__defaults__ or ()), value.__kwdefaults__ or {}, *cells]
        return f"{_named(value)} line {value.__code__.co_firstlineno} [{each(held)}]"
    if isinstance(value, types.MethodType):
        return each([value.__func__, value.__self__])
    if isinstance(value, functools.partial):
        return each([value.func, value.args, value.keywords])
    if isinstance(value, logging.Logger):
        return value.name
    if hasattr(value, "sorted_tables"):  # a MetaData of SQLAlchemy
        return "; ".join(map(repr, value.sorted_tables))
    if hasattr(value, "set_main_option"):  # a Config of Alembic, whose files a warm keeper watches
        section = value.get_section(value.config_ini_section) or {}
        return f"{value.config_file_name!r} {sorted(section.items())!r}"
    if not hasattr(value, "__dict__"):
        raise UnlikeError(f"nobody can tell whether one {_named(type(value))} is like another")
    return each([dict(vars(value))])
