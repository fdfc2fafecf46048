"""Whether servers that were made ready are what a class would start itself, now.

Two looks are taken. Both processes describe what the class declares; and the one that made the
servers has kept an account of what it read meanwhile: files, folders, modules, environment
variables. When the descriptions differ, or anything of the account is not as it was, the servers
are not those of this class any more.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import logging
import os
import re
import sys
import threading
import time
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from orchestrator.images import known_failures
from orchestrator.services.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_DEEPEST: Final = 40
_MOST_FILES: Final = 2000  # in a folder that a container sees
_NEVER_READ: Final = ("/proc/", "/sys/", "/dev/")
_WRITES: Final = os.O_WRONLY | os.O_RDWR
# What concerns the run, and not its servers.
_OF_THE_RUN: Final = frozenset(
    f"ORCHESTRATOR_{name}"
    for name in (
        *("RUN", "PROGRESS", "WARM", "LOGS", "TIMELINE", "LOG_LINES", "SKIP_WITHOUT_DOCKER"),
        "KEEP_FAILED",
    )
) | {"PYTHONHASHSEED"}  # the runner draws one for each run
_OF_A_SHELL: Final = frozenset({"PWD", "OLDPWD", "SHLVL", "_"})
_ALWAYS: Final = ("ORCHESTRATOR_", "DOCKER_")
_MAIN: Final = "__mp_main__"  # what a script is called where it is not run


class UnlikeError(Exception):
    """Servers cannot be, or are not, those that the class would start itself."""


def of_servers(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment variables on which servers may depend, whatever reads them."""
    return {
        name: it
        for name, it in environ.items()
        if name.startswith(_ALWAYS) and name not in _OF_THE_RUN
    }


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
    module = "__main__" if thing.__module__ == _MAIN else thing.__module__
    return f"{module}.{thing.__qualname__}"


def _value(value: Any, names: Mapping[Service, str], depth: int) -> str:  # noqa: C901, PLR0911, PLR0912
    """A value as text, all that is in it included."""
    if depth > _DEEPEST:
        raise UnlikeError("a declaration's value leads back to itself")

    def each(values: Iterable[Any]) -> str:
        return ", ".join(_value(it, names, depth + 1) for it in values)

    if value is None or isinstance(value, (bool, int, float, complex, bytes)):
        return repr(value)
    if isinstance(value, str):
        return str.__repr__(value)  # a subclass may hide it
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
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        held = [*(value.__defaults__ or ()), value.__kwdefaults__ or {}, *cells]
        return f"{_named(value)} line {value.__code__.co_firstlineno} [{each(held)}]"
    if isinstance(value, types.MethodType):
        return f"{each([value.__func__])} of {each([value.__self__])}"
    if isinstance(value, functools.partial):
        return f"partial {each([value.func, value.args, value.keywords])}"
    if isinstance(value, logging.Logger):
        return f"logger {value.name}"
    if isinstance(value, re.Pattern):
        return repr(value)
    if hasattr(value, "sorted_tables"):  # a MetaData of SQLAlchemy
        return "; ".join(map(repr, value.sorted_tables))
    if hasattr(value, "set_main_option"):  # a Config of Alembic; its files are in the account
        section = value.get_section(value.config_ini_section) or {}
        return f"alembic {value.config_file_name!r} {sorted(section.items())!r}"
    kept = getattr(value, "__dict__", None)
    if kept is None:
        raise UnlikeError(f"nobody can tell whether one {_named(type(value))} is like another")
    return f"{_named(type(value))}({each([dict(kept)])})"


# What was read


class Account:
    """What this process has read since, as far as Python sees it; for a keeper.

    A file is noted as it was before it was read. A process that this one starts reads what nobody
    sees: there is no saying, then, what the servers were made from.
    """

    def __init__(self) -> None:
        self._began = time.time_ns()
        self._files: dict[str, tuple[int, int] | None] = {}  # time of change and size
        self._folders: dict[str, tuple[str, ...]] = {}
        self._written: set[str] = set()
        self._read: set[str] = set()
        self._blind = ""
        self._inside = threading.local()
        self._never = (*_NEVER_READ, str(known_failures.folder()))  # ours, of each run

    def begin(self) -> None:
        """Note from now on what is read; it cannot be ended."""
        read = self._read

        class Watched(type(os.environ)):  # type: ignore[misc]
            def __getitem__(self, name: str) -> Any:
                frame = sys._getframe(1)  # noqa: SLF001
                frames = [it for it in (frame, frame.f_back) if it is not None]
                asking = {it.f_code.co_filename for it in frames}
                if not any(it.endswith("urllib/request.py") for it in asking):  # it reads them all
                    read.add(name)
                return super().__getitem__(name)

        vars(os)["environ"].__class__ = Watched
        sys.addaudithook(self._saw)

    def complete(self, mounts: Iterable[str]) -> None:
        """Note what no hook tells: modules that came from a cache, and what containers see.

        Raises:
            UnlikeError: Something has changed meanwhile, or cannot be told.
        """
        for module in tuple(sys.modules.values()):
            path = getattr(module, "__file__", None)
            if isinstance(path, str):
                self._note(path)
                noted = self._files.get(path)
                if noted is not None and noted[0] >= self._began:
                    raise UnlikeError(f"{path} was changed meanwhile")
        for mount in mounts:
            self._note(mount)
            self._note_all(mount)
        for folder in sys.path:
            if folder.endswith(("site-packages", "dist-packages")):
                self._note(folder)  # pip changes it
        if self._blind:
            raise UnlikeError(f"it was made by another program, {self._blind}")

    def _note_all(self, mount: str) -> None:
        found = 0
        for folder, _, files in os.walk(mount):
            self._folders[folder] = _names(folder)
            for name in files:
                self._note(os.path.join(folder, name))  # noqa: PTH118 - many of them
            found += len(files)
            if found > _MOST_FILES:
                raise UnlikeError(f"{mount}, which is mounted, has too many files to watch")

    def check(self, environ: Mapping[str, str], *, started: float, newest: int) -> None:
        """Compare with how things are now, and with another process.

        Args:
            environ: That process's environment variables.
            started: When it started, in seconds since the epoch.
            newest: When the newest of its own modules was changed, in nanoseconds.

        Raises:
            UnlikeError: Something is not as it was; the message names it.
        """
        if newest >= self._began:
            raise UnlikeError("a module of the test process has changed")
        for path, noted in tuple(self._files.items()):
            if path in self._written:
                continue
            if _state(path) != noted:
                raise UnlikeError(f"{path} has changed")
            if noted is not None and noted[0] > started * 1e9:
                raise UnlikeError(f"{path} was changed when the test process ran already")
        for folder, names in tuple(self._folders.items()):
            if _names(folder) != names:
                raise UnlikeError(f"something came into {folder}, or went")
        ours = dict(os.environ)
        always = {name for name in {*ours, *environ} if name.startswith(_ALWAYS)}
        for name in sorted((always | self._read) - _OF_THE_RUN - _OF_A_SHELL):
            if ours.get(name) != environ.get(name):
                raise UnlikeError(f"the environment variable {name} has changed")

    def _saw(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note what is about to happen."""
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, bytes, os.PathLike)):
                self._note(os.fsdecode(path), writes=bool(flags & _WRITES))
        elif event in ("os.listdir", "os.scandir"):
            path = "." if arguments[0] is None else arguments[0]
            by_import = "importlib" in sys._getframe(1).f_code.co_filename  # noqa: SLF001
            if isinstance(path, (str, bytes, os.PathLike)) and not by_import:
                self._look_into(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100
        elif event in ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec"):
            self._blind = self._blind or str(arguments[0])

    def _note(self, path: str, *, writes: bool = False) -> None:
        if path.endswith(".pyc"):
            try:
                path = importlib.util.source_from_cache(path)
            except ValueError:
                return
        path = os.path.abspath(path)  # noqa: PTH100 - links stay
        if writes:
            self._written.add(path)
        elif not path.startswith(self._never):
            self._files.setdefault(path, _state(path))

    def _look_into(self, folder: str) -> None:
        if folder.startswith(self._never) or vars(self._inside).get("looking"):
            return
        self._inside.looking = True  # to look is to be seen
        try:
            self._folders.setdefault(folder, _names(folder))
        finally:
            self._inside.looking = False


def newest_module() -> int:
    """When the newest module of this process was changed, of those that are not installed."""
    installed = (sys.base_prefix + "/lib/python", sys.prefix + "/lib/python")
    paths = [getattr(module, "__file__", None) for module in tuple(sys.modules.values())]
    own = {it for it in paths if isinstance(it, str) and not it.startswith(installed)}
    return max((found[0] for path in own if (found := _state(path))), default=0)


def _state(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - thousands of them
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _names(folder: str) -> tuple[str, ...]:
    """What is in a folder, without what tools leave there."""
    try:
        found = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return ()
    return tuple(sorted(it for it in found if not it.startswith((".", "__pycache__"))))
