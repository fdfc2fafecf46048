"""The watchdog as its owner sees it: its start, the socket to it, and what it removes meanwhile.

It removes what classes left that are over, in children of its own, and answers for each thing,
while the owner goes on to the next class. No thread here: a test may fork, and patch the clock or
sockets. What no watchdog answers for is removed by whoever waits.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.engine.api import Label
from orchestrator.errors import OrchestratorError
from orchestrator.sessions.bare.http_reaper import KnownThings
from orchestrator.sessions.bare.removal import (
    ANSWER_SECONDS,
    SilentError,
    Thing,
    remove_until_quiet,
)
from orchestrator.sessions.bare.watchdog import ACKNOWLEDGED, IGNORED
from orchestrator.sessions.identity import hold

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from orchestrator.engine import Endpoint

_FOLDER: Final = Path(__file__).resolve().parent
_MAIN: Final = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from bare.watchdog import main; main(sys.argv[1:])"
)
# What the watchdog's Python, TLS and ssh need, and nothing by which a CI runner could know it for
# a child of the job: some kill every process that carries their tag in its environment.
_KEPT: Final = (
    "PATH",
    "HOME",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SSH_AUTH_SOCK",
)
_START_SECONDS: Final = 10.0
_SEND_SECONDS: Final = 5.0
_CHUNK: Final = 65536
_TORN_DOWN: Final = 5.0  # seconds that an owner has to end by itself, beyond those it asked for
_REMOVER_SECONDS: Final = 60.0  # for a watchdog to answer at all; somebody may have stopped it
_OWN_SECONDS: Final = 5.0  # for what does not go at the first attempt, when the watchdog is gone
_POLL: Final = 0.02  # seconds between two looks at several watchdogs


@dataclass(frozen=True, kw_only=True)
class Supervisor:
    """A process that started this one, looks at what it leaves, and is not outlived by it.

    It closes its end of the pipe when it has looked, or is dead; this process ends by itself within
    the grace (seconds) after that.
    """

    pipe: int
    grace: float


class WatchdogError(OrchestratorError):
    """The watchdog did not start, or is gone."""


class Watchdog:
    """The owner's end of the socket. Its messages are small enough never to be torn apart."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        self._process = process
        self._connection = connection
        self._gone = False
        self._heard = b""  # the last of it may be half a line

    def acknowledged(self) -> None:
        """Wait until it watches; something else can be done before. `WatchdogError` otherwise."""
        try:
            answer = self._connection.recv(len(ACKNOWLEDGED), socket.MSG_WAITALL)
            self._process.wait(_START_SECONDS)  # the first of its two forks
        except (OSError, subprocess.TimeoutExpired) as error:
            answer = str(error).encode()
        if answer != ACKNOWLEDGED:
            self._connection.close()
            with contextlib.suppress(OSError):
                self._process.kill()
            self._process.wait()
            raise WatchdogError(f"the watchdog did not start: {answer.decode() or 'it ended'}")
        self._connection.settimeout(_SEND_SECONDS)

    def send(self, *messages: str) -> None:
        """Write messages, a line each; `WatchdogError` if it is gone."""
        if self._gone:
            raise WatchdogError("the watchdog does not listen")
        # A program may have set SIGPIPE back to its deadly default; macOS lacks the flag.
        flags = getattr(socket, "MSG_NOSIGNAL", 0)
        try:
            lines = "".join(f"{message}\n" for message in messages)
            self._connection.sendall(lines.encode(), flags)
        except OSError as error:
            self._gone = True  # half a line may have been written
            raise WatchdogError(f"the watchdog does not listen: {error}") from error

    def heard(self, *, seconds: float) -> list[str]:
        """What it has written, having waited so long for the first line; WatchdogError if gone."""
        poller = select.poll()
        try:
            poller.register(self._connection, select.POLLIN)
            while poller.poll(1000 * seconds):
                data = self._connection.recv(_CHUNK)
                if not data:
                    raise WatchdogError("the watchdog is gone")
                self._heard += data
                seconds = 0
        except (OSError, ValueError) as error:  # it was closed, or the watchdog is dead
            raise WatchdogError(f"the watchdog is gone: {error}") from error
        *lines, self._heard = self._heard.split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def share(self) -> int:
        """Let whoever else holds the socket keep things alive: its descriptor, to be sent."""
        self.send("shared")
        return self._connection.fileno()

    def close(self) -> None:
        """Close the socket: to the watchdog its owner is dead, unless somebody else holds it."""
        self._connection.close()


def start_watchdog(
    session: str, *, endpoint: Endpoint, supervisor: Supervisor | None = None
) -> Watchdog:
    """Start a process that removes what this session left when the calling process is dead."""
    if not sys.executable:
        raise WatchdogError("the watchdog did not start: this Python does not know its executable")
    ours, theirs = socket.socketpair()
    ours.settimeout(_START_SECONDS)
    python = os.path.abspath(sys.executable)  # noqa: PTH100  # a venv's link must stay
    argv = [python, "-I", "-S", "-c", _MAIN, str(_FOLDER), f"{Label.SESSION}={session}"]
    kept = {*_KEPT, endpoint.proxy[0]} if endpoint.proxy else _KEPT
    with theirs, _own_pidfd() as pidfd, _signals_blocked(), contextlib.ExitStack() as ending:
        argv.append("-" if pidfd is None else str(pidfd))
        inherited = [] if pidfd is None else [pidfd]
        if supervisor is None:
            argv += ["-", "0"]
        else:
            argv += [str(supervisor.pipe), str(supervisor.grace + _TORN_DOWN)]
            inherited.append(supervisor.pipe)
            # Until the watchdog ends: no sweep takes what is to be looked at.
            if held := hold(session):
                inherited.append(ending.enter_context(held).fileno())
        try:
            process = subprocess.Popen(
                [*argv, *endpoint.way],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={
                    name: value
                    for name, value in os.environ.items()
                    if name in kept or name.startswith("DOCKER_")
                },
                start_new_session=True,
                pass_fds=inherited,
            )
        except OSError as error:
            ours.close()
            raise WatchdogError(f"the watchdog did not start: {error}") from error
    return Watchdog(process, ours)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block in the new process what it will ignore: until its Python is up, it would die of it."""
    numbers = [getattr(signal, name) for name in IGNORED]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def _own_pidfd() -> Iterator[int | None]:
    """A handle on this very process: no pid that could be reused, in no other namespace."""
    try:
        pidfd = os.pidfd_open(os.getpid())
    except (AttributeError, OSError):  # macOS; a kernel before 5.3; a strict seccomp profile
        yield None
        return
    try:
        yield pidfd
    finally:
        os.close(pidfd)


# What it removes while its owner goes on


@dataclass(frozen=True, kw_only=True)
class _Departing:
    thing: Thing
    test_class: str
    watchdog: Watchdog
    given_up_at: float


class Departing:
    """The things of one session that its watchdogs were told to remove.

    ``forget`` is called with the name of what is gone.
    """

    def __init__(
        self, way: Sequence[str], watchdogs: Sequence[Watchdog], *, forget: Callable[[str], None]
    ) -> None:
        self._way = way
        self._watchdogs = watchdogs
        self._forget = forget
        self._lock = threading.RLock()
        self._things: dict[str, _Departing] = {}
        self._left: dict[str, list[Thing]] = {}  # by class: what would not go

    def hand_over(self, things: Sequence[Thing], *, test_class: str, seconds: float) -> bool:
        """Have a watchdog remove a class's things, containers first; whether one has taken that.

        The seconds are for what does not go at the first attempt.
        """
        if not self._watchdogs:
            return False
        with self._lock:
            self._listen()
            until = time.monotonic() + seconds + _REMOVER_SECONDS
            try:
                named = " ".join(f"{thing.kind}:{thing.name}" for thing in things)
                watchdog = self._watchdogs[-1]
                watchdog.send(f"~{seconds} {named}")
            except WatchdogError:
                return False
            for thing in things:
                self._things[thing.name] = _Departing(
                    thing=thing, test_class=test_class, watchdog=watchdog, given_up_at=until
                )
        return True

    @property
    def under_way(self) -> Mapping[str, str]:
        """Name and kind of what no watchdog has answered for; takes no lock."""
        return {name: it.thing.kind for name, it in self._things.copy().items()}

    def awaited(
        self, *, kinds: Collection[str], test_class: str | None = None
    ) -> dict[str, list[Thing]]:
        """Wait until things of these kinds are gone; by class, what would not go, told once.

        They are of this class, or of all. Where something of a class would not go, all kinds count.
        """
        with self._lock:
            while waiting := [
                it
                for it in self._things.values()
                if test_class in (None, it.test_class)
                and (it.thing.kind in kinds or it.test_class in self._left)
            ]:
                late = [it for it in waiting if time.monotonic() > it.given_up_at]
                self._remove(late)
                one = len({it.watchdog for it in waiting}) == 1
                self._listen(seconds=1.0 if one else _POLL)
            classes = [name for name in self._left if test_class in (None, name)]
            return {name: self._left.pop(name) for name in classes}

    def _listen(self, *, seconds: float = 0.0) -> None:
        for watchdog in {it.watchdog: None for it in self._things.values()}:
            try:
                lines = watchdog.heard(seconds=seconds)
            except WatchdogError:
                self._remove([it for it in self._things.values() if it.watchdog is watchdog])
                continue
            for line in lines:
                name, _, reason = line[1:].partition(" ")
                if name in self._things:
                    it = self._things.pop(name)
                    it.thing.reason = reason
                    self._over(it, gone=line[0] == "-")

    def _remove(self, departing: Sequence[_Departing]) -> None:
        """Remove what no watchdog answers for."""
        if not departing:
            return
        known = KnownThings(self._way, [it.thing for it in departing], timeout=ANSWER_SECONDS)
        with contextlib.suppress(SilentError):
            remove_until_quiet(known, seconds=_OWN_SECONDS)
        left = known.listed()
        for it in departing:
            del self._things[it.thing.name]
            self._over(it, gone=it.thing not in left)

    def _over(self, it: _Departing, *, gone: bool) -> None:
        if gone:
            self._forget(it.thing.name)
        else:
            self._left.setdefault(it.test_class, []).append(it.thing)
