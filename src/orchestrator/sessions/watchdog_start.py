"""Starting the watchdog, and the socket on which its owner speaks to it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.engine.api import Label
from orchestrator.errors import OrchestratorError
from orchestrator.sessions.bare.watchdog import ACKNOWLEDGED, IGNORED
from orchestrator.sessions.identity import hold

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.engine import Endpoint

_FOLDER: Final = Path(__file__).resolve().parent
_MAIN: Final = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from bare.watchdog import main; main(sys.argv[1:])"
)
# What the watchdog's Python and ssh need, and nothing by which a CI runner could know it for a
# child of the job: some kill every process that carries their tag in its environment.
_KEPT: Final = ("PATH", "HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SSH_AUTH_SOCK")
_START_SECONDS: Final = 10.0
_SEND_SECONDS: Final = 5.0
_CHUNK: Final = 65536
_TORN_DOWN: Final = 5.0  # seconds that an owner has to end by itself, beyond those it asked for


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
        """The lines that it has written, having waited so long for the first of them.

        Raises:
            WatchdogError: It is gone.
        """
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
    """Start a process that removes what this session left when the calling process is dead.

    Raises:
        WatchdogError: It cannot be started.
    """
    if not sys.executable:
        raise WatchdogError("the watchdog did not start: this Python does not know its executable")
    ours, theirs = socket.socketpair()
    ours.settimeout(_START_SECONDS)
    python = os.path.abspath(sys.executable)  # noqa: PTH100  # a venv's link must stay
    argv = [python, "-I", "-S", "-c", _MAIN, str(_FOLDER), f"{Label.SESSION}={session}"]
    with theirs, _own_pidfd() as pidfd, _signals_blocked(), contextlib.ExitStack() as ending:
        argv.append("-" if pidfd is None else str(pidfd))
        inherited = [] if pidfd is None else [pidfd]
        held = None
        if supervisor is None:
            argv += ["-", "0"]
        else:
            argv += [str(supervisor.pipe), str(supervisor.grace + _TORN_DOWN)]
            inherited.append(supervisor.pipe)
            held = hold(session)  # until the watchdog ends: no sweep takes what is to be looked at
        if held is not None:
            ending.callback(held.close)
            inherited.append(held.fileno())
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
                    if name in _KEPT or name.startswith("DOCKER_")
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
