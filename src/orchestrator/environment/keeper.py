"""A keeper: a process that makes the servers of one class ready, and keeps them for its next run.

It waits until the process that asked for it has ended; imports the class as that one did; starts
its services by the same code; and hands them to the first process of this user that declares the
same, if nothing that they were made from has changed. They are its own all the time, in a session
with a watchdog: it removes them when that process has done with them or is dead, when nobody came
in time, and when it is told to stop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import os
import selectors
import socket
import sys
import threading
import time
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.engine import connect
from orchestrator.environment import warm
from orchestrator.environment.environment import Environment
from orchestrator.environment.launch import release
from orchestrator.environment.likeness import Account, UnlikeError, described
from orchestrator.environment.services import declared_services
from orchestrator.images.lockfile import lock_path
from orchestrator.services.service import memory_needed
from orchestrator.sessions import own_session
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.sessions import Session

_TICK: Final = 20.0  # seconds between two looks at what is kept
_ANSWER: Final = 2.0  # seconds a kept server has to show that it lives
_LONGEST_START: Final = 120.0
_LONGEST_LOG: Final = 1 << 16
_SHARE: Final = 0.5  # of the free memory
_MAIN_MODULE: Final = "__mp_main__"


class Answering:
    """A process that answers requests of this user's processes, until it is over.

    Args:
        path: Where its socket is.
        listener: The socket.
    """

    def __init__(self, path: Path, listener: socket.socket) -> None:
        self._path = path
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._over = False
        self._inode = 0
        self._wake, self._woken = os.pipe()

    def serve(self) -> None:
        """Answer until it is over."""
        self._inode = self._path.stat().st_ino
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake, selectors.EVENT_READ, self._made)
        while not self._over:
            for key, _ in self._selector.select(self._patience()):
                key.data(key.fileobj)
            self._look()

    def leave(self) -> None:
        """Be found no more."""
        with contextlib.suppress(OSError), warm.locked():
            if self._path.stat().st_ino == self._inode:  # after a long sleep it is another's
                self._path.unlink()
        self._listener.close()

    def _accept(self, _: object) -> None:
        try:
            connection, _address = self._listener.accept()
        except OSError:
            return
        try:
            connection.settimeout(_ANSWER)
            pid = warm.check_peer(connection)
            keep = self._answer(connection, warm.receive(connection), pid)
        except Exception as error:  # noqa: BLE001 - of the other side
            note(f"{type(error).__name__}: {error}")
            keep = False
        if not keep:
            connection.close()

    def _answer(self, connection: socket.socket, request: Mapping[str, Any], pid: int) -> bool:
        """Answer one request; whether the connection is still needed."""
        raise NotImplementedError

    def _made(self, wake: object) -> None:
        """A thread has written to the pipe: something is there, or cannot be."""
        raise NotImplementedError

    def _patience(self) -> float | None:
        """Seconds until the next look, if nothing happens before."""
        raise NotImplementedError

    def _look(self) -> None:
        """Every now and then: is it still wanted?"""


class Keeper(Answering):
    """One class's servers, from the order to make them to their end.

    Args:
        order: What to make, as `Origin.make_next` gives it.
    """

    def __init__(self, order: Mapping[str, Any]) -> None:
        path = warm.folder() / f"{order['key']}.sock"
        super().__init__(path, socket.socket(socket.AF_UNIX))
        self._order = order
        self._state = "waits"
        self._since = time.time()
        self._account = Account()
        self._environment: Environment | None = None
        self._declared = ""
        self._trouble = ""
        self._session: Session | None = None
        self._waiting: socket.socket | None = None  # who came while the servers were made
        self._asked: Mapping[str, Any] = {}
        self._taker: tuple[socket.socket, int] | None = None

    def run(self, beginning: int) -> None:
        """Keep until there is no more reason to."""
        if not self._bind():
            return
        self._selector.register(beginning, selectors.EVENT_READ, self._begin)
        self._until = _clock() + _TICK
        try:
            self.serve()
        finally:
            self._end()

    def _patience(self) -> float | None:
        if self._state == "ready":
            return max(0.0, min(_TICK, self._until - _clock()))
        return None

    def _look(self) -> None:
        """Is it still wanted, and still there?"""
        if self._state == "ready" and (_clock() >= self._until or not self._lives()):
            self._over = True

    # Where it is found

    def _bind(self) -> bool:
        """Listen, unless another one does for the same class."""
        with warm.locked():
            if self._path.exists() and warm.ask(self._path, do="status") is not None:
                return False
            self._path.unlink(missing_ok=True)
            self._listener.bind(str(self._path))
            self._path.chmod(0o600)
            self._listener.listen(16)
            return True

    def _move(self) -> None:
        """Leave the place to the next one; who wants to know finds this one still."""
        with warm.locked():
            self._path = self._path.rename(self._path.with_suffix(f".{os.getpid()}.sock"))

    def _end(self) -> None:
        self.leave()
        if self._environment is not None:
            self._environment.stop(wait=True)  # unfinished ones go with the session

    # What it is asked

    def _answer(self, connection: socket.socket, request: Mapping[str, Any], pid: int) -> bool:
        """Answer one request; whether the connection is still needed."""
        if request["do"] == "status":
            warm.send(connection, self._status())
        elif request["do"] == "stop":
            if self._taker is None:
                self._end()
                self._environment, self._over = None, True
            warm.send(connection, {"stopped": self._over})
        elif self._state == "made" and self._waiting is None:
            self._waiting, self._asked = connection, {**request, "pid": pid}
            warm.send(connection, {"wait": _LONGEST_START})
            return True
        else:
            return self._hand_over(connection, request, pid)
        return False

    def _status(self) -> Mapping[str, Any]:
        environment = self._environment
        return {
            "class": f"{self._order['module']}.{self._order['class']}",
            "state": self._state,
            "services": list(environment.services) if environment else [],
            "session": self._session.id if self._session else "",
            "pid": os.getpid(),
            "since": self._since,
            "left": self._until - _clock() if self._state == "ready" else None,
            "folder": os.getcwd(),  # noqa: PTH109
            "taker": self._taker[1] if self._taker else 0,
        }

    # Making

    def _begin(self, beginning: Any) -> None:
        """The process that asked for it has ended."""
        self._selector.unregister(beginning)
        self._state = "queued"
        self._since = time.time()
        threading.Thread(target=self._make_all, daemon=True).start()

    def _make_all(self) -> None:
        try:
            with warm.locked("turn"):  # what two make at once takes both
                self._state = "made"
                self._make()
        except BaseException as error:  # noqa: BLE001 - of the user's code, perhaps
            self._trouble = f"{type(error).__name__}: {error}"
        os.write(self._woken, b".")

    def _make(self) -> None:
        """Start the servers.

        Raises:
            Exception: They cannot be kept.
        """
        self._make_room()
        settings = dataclasses.replace(
            Settings.from_environment(), warm=0.0, run=None, logs=None, timeline=None
        )
        engine = connect(settings)
        with contextlib.closing(engine):
            self._session = own_session(engine, settings=settings)
        self._account.begin()
        cls = _imported(self._order)
        services = declared_services(cls)
        if not warm.may_be_warm(services, dataclasses.replace(settings, warm=1.0)):
            raise UnlikeError("its services cannot be handed over")
        _check_memory(sum(map(memory_needed, services.values())))
        self._declared = described(services, lock=lock_path(settings))
        name = f"{self._order['module']}.{self._order['class']}"
        environment = Environment(services, test_class=name, settings=settings)
        environment.start()
        self._environment = environment
        for handle in environment.handles.values():
            release(handle)
        mounts = (
            path for it in environment.handles.values() for path in it.server_mounts().values()
        )
        self._account.complete(mounts)

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

    def _made(self, _: object) -> None:
        """The servers are there, or cannot be."""
        os.read(self._wake, 1)
        waiting, self._waiting = self._waiting, None
        if self._trouble:
            note(self._trouble)
            self._over = True
            if waiting is not None:
                with contextlib.suppress(OSError), waiting:
                    warm.send(waiting, {"no": self._trouble})
            return
        self._state = "ready"
        self._since = time.time()
        self._until = _clock() + self._order["seconds"]
        if waiting is not None:
            try:
                keep = self._hand_over(waiting, self._asked, self._asked["pid"])
            except OSError:
                keep = False
            if not keep:
                waiting.close()

    # Handing over

    def _hand_over(self, connection: socket.socket, asked: Mapping[str, Any], pid: int) -> bool:
        """Give it all to a process, if it is what that process would start itself."""
        if self._state != "ready" or self._environment is None:
            warm.send(connection, {"no": f"the keeper's state is: {self._state}"})
            return False
        try:
            self._check(asked)
        except UnlikeError as error:
            note(f"not handed over: {error}")
            self._over = True  # nobody will want them
            warm.send(connection, {"no": str(error)})
            return False
        handles = self._environment.handles
        engine = next(iter(handles.values())).running.engine
        self._move()
        self._state = "taken"
        self._taker = connection, pid
        self._selector.register(connection, selectors.EVENT_READ, self._given_back)
        with contextlib.suppress(AttributeError, OSError):  # macOS; it may be dead already
            pidfd = os.pidfd_open(pid)  # a child that it forked may hold the connection open
            self._selector.register(pidfd, selectors.EVENT_READ, self._given_back)
        try:
            warm.send(
                connection,
                {
                    "session": self._session.id if self._session else "",
                    "engine": {"host": engine.host, "bind_address": engine.bind_address},
                    "services": {
                        handle.alias: warm.handed(declaration, handle)
                        for declaration, handle in handles.items()
                    },
                    "watchdogs": len(held := self._session.share() if self._session else []),
                },
            )
            if held:  # should this process be killed, its servers live as long as the taker does
                socket.send_fds(connection, [b"."], held)
        except BaseException:
            self._over = True
            raise
        return True

    def _check(self, asked: Mapping[str, Any]) -> None:
        """Raise UnlikeError unless it is what the other process would start itself, and runs."""
        if asked["declared"] != self._declared:
            raise UnlikeError("it declares something else")
        self._account.check(asked["environ"], started=asked["started"], newest=asked["newest"])
        if not self._lives():
            raise UnlikeError("the servers that were kept do not run any more")

    def _given_back(self, _: object) -> None:
        self._over = True

    def _lives(self) -> bool:
        """Whether all that was made runs and answers."""
        return self._environment is not None and self._environment.lives(patience=_ANSWER)


def _imported(order: Mapping[str, Any]) -> type:
    """The class, from a module that is imported as the test process did."""
    module = imported(order["module"], order["file"])
    found: type = reduce(getattr, order["class"].split("."), module)
    return found


def imported(name: str, file: str | None) -> Any:
    """A module as another process has it, with that name from that file."""
    if name == "__main__":  # a script, which must not run its tests here
        module: Any = None
        spec = importlib.util.spec_from_file_location(_MAIN_MODULE, file) if file else None
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


def note(text: str) -> None:
    """Write to the keepers' log."""
    sys.stderr.write(f"{os.getpid()}: {text}\n")
    sys.stderr.flush()


def _check_memory(needed: int) -> None:
    """Raise MemoryError when servers would take too much of what is free."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:") and needed > int(line.split()[1]) * 1024 * _SHARE:
                raise MemoryError(
                    f"its servers take {needed >> 20} MiB of memory; too little is free"
                )


def _clock() -> float:
    """Seconds that go on while the machine sleeps, where it can tell."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def begin() -> Mapping[str, Any]:
    """Be a keeper, apart from every terminal and job: what it is told."""
    with contextlib.suppress(OSError):
        os.setsid()
    order: Mapping[str, Any] = json.loads(sys.argv[1])
    sys.argv[1:] = []
    path = warm.folder() / "log"
    fresh = os.O_TRUNC if path.exists() and path.stat().st_size > _LONGEST_LOG else 0
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | fresh, 0o600)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.set_inheritable(warm.INHERITED, False)  # noqa: FBT003 - its only argument
    return order


def main() -> None:
    """Keep what a class needs for its next run."""
    Keeper(begin()).run(warm.INHERITED)
