"""The keeper of a class: it makes the servers of one ready, and keeps them for its next run.

It waits until the process that asked for it has ended; imports the class as that one did; starts
its services by the same code; and hands them to the first process of this user that declares the
same, if nothing that they were made from has changed, of which it has an account. They are its own
all the time: it removes them when that process has done with them or is dead, when nobody came in
time, and when it is told to stop.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import socket
import sys
import threading
import time
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.environment import declared_services, keeper, warm
from orchestrator.environment.environment import Environment
from orchestrator.environment.keeper import OF_SERVERS, OF_THE_RUN, UnlikeError, note
from orchestrator.environment.late_engine import LateEngine
from orchestrator.environment.launch import release
from orchestrator.images import failures
from orchestrator.images.lockfile import lock_path
from orchestrator.services.service import memory_needed
from orchestrator.sessions import own_session
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.sessions import Session

_TICK: Final = 20.0  # seconds between two looks at what is kept
_LONGEST_START: Final = 120.0
_SHARE: Final = 0.5  # of the free memory
_MOST_FILES: Final = 2000  # in a folder that a container sees
_NEVER_READ: Final = ("/proc/", "/sys/", "/dev/")
_WRITES: Final = os.O_WRONLY | os.O_RDWR
_OF_A_SHELL: Final = frozenset({"PWD", "OLDPWD", "SHLVL", "_"})


class WarmKeeper(keeper.Keeper):
    """One class's servers, from the order of `Origin.make_next` to their end."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        path = keeper.folder() / f"{order['key']}{warm.SOCKET}"
        super().__init__(path, socket.socket(socket.AF_UNIX))
        self._order = order
        self._class = f"{order['module']}.{order['class']}"
        self._state = "waits"
        self._since = time.time()
        self._until = 0.0
        self._account = Account()
        self._environment: Environment | None = None
        self._declared = ""
        self._session: Session | None = None
        self._waiting: tuple[socket.socket, Mapping[str, Any], int] | None = None
        self._taker = 0

    def listen(self) -> bool:
        """Be found, unless another one is already for the same class."""
        with keeper.locked():
            if self.path.exists() and keeper.ask(self.path, do="status") is not None:
                return False
            self.path.unlink(missing_ok=True)
            self.listener.bind(str(self.path))
            self.path.chmod(0o600)
            self.listener.listen(16)
            return True

    def keep(self) -> None:
        """Return when there is no more reason to keep anything."""
        threading.Thread(target=self._make_and_keep, daemon=True).start()
        self.over.wait()

    def remove(self) -> None:
        """Remove the servers; unfinished ones go with the session."""
        if self._environment is not None:
            self._environment.stop(wait=True)

    # What it is asked

    def answer(self, connection: socket.socket, request: Mapping[str, Any], pid: int) -> bool:
        """Say what there is, hand it over, or end."""
        with self.lock:
            if request["do"] == "take":
                if self._state == "made" and self._waiting is None:
                    self._waiting = connection, request, pid
                    keeper.send(connection, {"wait": _LONGEST_START})
                    return True
                return self._hand_over(connection, request, pid)
            if request["do"] == "stop" and self._state != "taken":
                return self.end(connection)
            keeper.send(connection, self._status())
        return False

    def _status(self) -> Mapping[str, Any]:
        return {
            "class": self._class,
            "state": self._state,
            "services": list(self._environment.services) if self._environment else [],
            "session": self._session.id if self._session else "",
            "pid": os.getpid(),
            "since": self._since,
            "left": self._until - _clock() if self._state == "ready" else None,
            "folder": os.getcwd(),  # noqa: PTH109
            "taker": self._taker,
        }

    # Making and keeping

    def _make_and_keep(self) -> None:
        os.read(keeper.INHERITED, 1)  # until the process that asked for it has ended
        self._state, self._since = "queued", time.time()
        trouble = ""
        try:
            with keeper.locked("turn"):  # what two make at once takes both
                self._state = "made"
                self._make()
        except BaseException as error:  # noqa: BLE001 - of the user's code, perhaps
            trouble = f"{type(error).__name__}: {error}"
            note(trouble)
        with self.lock:
            if not trouble:
                self._state, self._since = "ready", time.time()
                self._until = _clock() + self._order["seconds"]
            if self._waiting is not None:
                connection, request, pid = self._waiting
                with contextlib.suppress(OSError):
                    if trouble:
                        keeper.send(connection, {"no": trouble})
                    else:
                        self._hand_over(connection, request, pid)
        while self._is_wanted():
            self.over.wait(max(0.0, min(_TICK, self._until - _clock())))

    def _is_wanted(self) -> bool:
        """Whether somebody may come for the servers; who has them says when it is over."""
        with self.lock:
            wanted = self._state == "ready" and _clock() < self._until and self._lives()
            if not wanted and self._state != "taken":
                self.over.set()
        return wanted and not self.over.is_set()

    def _make(self) -> None:
        """Start the servers; raises where they cannot be kept."""
        self._make_room()
        settings = replace(
            Settings.from_environment(), warm=0.0, run=None, logs=None, timeline=None
        )
        engine = LateEngine(settings)
        with contextlib.closing(engine):
            self._session = own_session(engine, settings=settings)
        self._account.begin()
        module = keeper.imported(self._order["module"], self._order["file"])
        cls: type = reduce(getattr, self._order["class"].split("."), module)
        services = declared_services(cls)
        if not warm.may_be_warm(services, replace(settings, warm=1.0)):
            raise UnlikeError("its services cannot be handed over")
        _check_memory(sum(map(memory_needed, services.values())))
        self._declared = warm.described(services, lock=lock_path(settings))
        environment = Environment(services, test_class=self._class, settings=settings)
        environment.start()
        self._environment = environment
        handles = environment.handles.values()
        for handle in handles:
            release(handle)
        self._account.complete(path for it in handles for path in it.server_mounts().values())

    def _make_room(self) -> None:
        """Let those go that have waited longest, when there are too many."""
        others = [
            it
            for it in warm.keepers()
            if it["state"] in ("queued", "made", "ready") and it["pid"] != os.getpid()
        ]
        others.sort(key=lambda it: float(it["since"]))
        for other in others[: max(0, len(others) - warm.MOST + 1)]:
            warm.stop(other["socket"])

    # Handing over

    def _hand_over(self, connection: socket.socket, asked: Mapping[str, Any], pid: int) -> bool:
        """Give it all to a process, if it is what that process would start itself."""
        if self._state != "ready" or self._environment is None or self._session is None:
            keeper.send(connection, {"no": f"the keeper's state is: {self._state}"})
            return False
        try:
            self._check(asked)
        except UnlikeError as error:
            note(f"not handed over: {error}")
            self.over.set()  # nobody will want them
            keeper.send(connection, {"no": str(error)})
            return False
        with keeper.locked():  # the place is the next one's; who wants to know finds this one still
            self.path = self.path.rename(self.path.with_suffix(f".{os.getpid()}{warm.SOCKET}"))
        self._state, self._taker = "taken", pid
        handles = self._environment.handles
        held = self._session.share()
        answer = {
            "session": self._session.id,
            "engine": keeper.published(next(iter(handles.values())).running.engine),
            "services": {it.alias: keeper.handed(of, it) for of, it in handles.items()},
            "watchdogs": len(held),
        }
        try:
            keeper.send(connection, answer)
            if held:  # should this process be killed, its servers live as long as the taker does
                socket.send_fds(connection, [b"."], held)
        except BaseException:
            self.over.set()
            raise
        threading.Thread(target=self._await_end, args=[connection, pid], daemon=True).start()
        return True

    def _await_end(self, connection: socket.socket, pid: int) -> None:
        """Be over when the taker has done with it, or is dead."""
        watched: list[Any] = [connection]
        with contextlib.suppress(AttributeError, OSError):  # macOS; it may be dead already
            watched.append(os.pidfd_open(pid))  # a child that it forked may hold the connection
        select.select(watched, [], [])
        self.over.set()

    def _check(self, asked: Mapping[str, Any]) -> None:
        """Raise UnlikeError unless it is what the other process would start itself, and runs."""
        if asked["declared"] != self._declared:
            raise UnlikeError("it declares something else")
        self._account.check(asked["environ"], started=asked["started"], newest=asked["newest"])
        if not self._lives():
            raise UnlikeError("the servers that were kept do not run any more")

    def _lives(self) -> bool:
        return self._environment is not None and self._environment.lives(patience=keeper.PATIENCE)


class Account:
    """What this process has read since, as far as Python sees it.

    A file is noted as it was before it was read. What a process reads that this one starts, nobody
    sees.
    """

    def __init__(self) -> None:
        self._began = time.time_ns()
        self._files: dict[str, tuple[int, int] | None] = {}  # time of change and size
        self._folders: dict[str, tuple[str, ...]] = {}
        self._written: set[str] = set()
        self._variables: set[str] = set()
        self._program = ""
        self._inside = threading.local()
        self._never = (*_NEVER_READ, str(failures.folder()))  # ours, of each run

    def begin(self) -> None:
        """Note from now on what is read; it cannot be ended."""
        variables = self._variables

        class Watched(type(os.environ)):  # type: ignore[misc]
            def __getitem__(self, name: str) -> Any:
                frame = sys._getframe(1)  # noqa: SLF001
                frames = [it for it in (frame, frame.f_back) if it is not None]
                asking = {it.f_code.co_filename for it in frames}
                if not any(it.endswith("urllib/request.py") for it in asking):  # it reads them all
                    variables.add(name)
                return super().__getitem__(name)

        vars(os)["environ"].__class__ = Watched
        sys.addaudithook(self._saw)

    def complete(self, mounts: Iterable[str]) -> None:
        """Note what no hook tells: modules that came from a cache, and what containers see."""
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
        if self._program:
            raise UnlikeError(f"it was made by another program, {self._program}")

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
        """Raise UnlikeError for what is not as it was, or not as in the other process.

        That has these variables, `started` so many seconds after the epoch, and the `newest` of its
        own modules was changed so many nanoseconds after it.
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
        always = {name for name in {*ours, *environ} if name.startswith(OF_SERVERS)}
        for name in sorted((always | self._variables) - OF_THE_RUN - _OF_A_SHELL):
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
            self._program = self._program or str(arguments[0])

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


def _check_memory(needed: int) -> None:
    """Raise MemoryError when servers would take too much of what is free."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:") and needed > int(line.split()[1]) * 1024 * _SHARE:
                raise MemoryError(f"its servers take {needed >> 20} MiB; too little is free")


def _clock() -> float:
    """Seconds that go on while the machine sleeps, where it can tell."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def main() -> None:
    """Keep what a class needs for its next run."""
    made = WarmKeeper(keeper.begin())
    if made.listen():
        made.run()
