"""Readiness: how to tell that a server will answer. Each probe asks once.

A probe is tried every 15 ms, and less often with time, until it succeeds or the deadline passes,
from the host, as the test will. Whether the container is still alive is checked in the loop, so no
probe has to.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from orchestrator.errors import DeclarationError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from orchestrator.engine.api import ContainerState, ExecResult

__all__ = ["All", "Call", "Exec", "Healthcheck", "Http", "LogLine", "NotReadyError", "Probe", "Tcp"]
ATTEMPT: Final = 0.5
"""Seconds that one connection or answer may take."""
_SILENCE: Final = 0.1  # a proxy on a busy or distant machine takes its time to hang up


class NotReadyError(Exception):
    """A probe's way to say "not yet"; it ends as the cause of `ServiceNotReadyError`."""


class Target(Protocol):
    """What probes and faults may see of a service; `Service` explains each."""

    @property
    def alias(self) -> str: ...
    @property
    def image(self) -> str | None: ...
    @property
    def startup_timeout(self) -> float: ...
    def readiness(self) -> Probe | None: ...
    def started(self) -> None: ...
    def container_ports(self) -> Sequence[str]: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    def port_of(self, container_port: int) -> int: ...
    def logs(self, tail: int | None = None) -> str: ...
    def exec(self, argv: Sequence[str]) -> ExecResult: ...
    def state(self) -> ContainerState | None: ...
    def why_ended(self) -> str: ...
    @property
    def running(self) -> Any: ...


class Probe(Protocol):
    """Tells whether a service is ready."""

    def check(self, target: Target) -> None:
        """Return when the service is ready; raise anything when it is not yet."""


def watching(probe: Probe, target: Target) -> AbstractContextManager[Probe]:
    """A probe that is to be tried again and again: one of logs reads them once."""
    if isinstance(probe, (LogLine, All)):
        return probe.watching(target)
    return contextlib.nullcontext(probe)


def is_probe(value: object) -> bool:
    """Whether a value can be tried; the class of a probe cannot, ``Tcp`` for ``Tcp()``."""
    return not isinstance(value, type) and callable(getattr(value, "check", None))


def connect(target: Target, *, port: int | None = None) -> socket.socket:
    """Open a connection to a published port; reads and writes are bounded."""
    import socket  # not at import: a test module that only declares loads little

    published = target.port if port is None else target.port_of(port)
    try:
        return socket.create_connection((target.host, published), timeout=ATTEMPT)
    except OSError as error:
        raise NotReadyError(
            f"port {published} of {target.host} cannot be reached ({error}); if that is not where "
            "the daemon's ports are, ORCHESTRATOR_HOST=… says where"
        ) from error


@dataclass(frozen=True)
class Tcp:
    """Ready when a port accepts a connection and keeps it.

    Args:
        port: The container port; the service's main port without one.
    """

    port: int | None = None

    def check(self, target: Target) -> None:
        """Connect; a proxy without a server behind it hangs up at once."""
        with connect(target, port=self.port) as connection:
            connection.settimeout(_SILENCE)
            try:
                hung_up = connection.recv(1) == b""
            except TimeoutError:
                return  # the server waits for us to speak: it is there
            if hung_up:
                raise NotReadyError("the connection was closed at once")


@dataclass(frozen=True)
class Http:
    """Ready when a GET is answered with the expected status.

    Args:
        path: What to ask for.
        port: The container port; the service's main port without one.
        status: The expected status.
        timeout: Seconds one answer may take.
    """

    path: str = "/"
    port: int | None = None
    status: int = 200
    timeout: float = 5.0

    def __post_init__(self) -> None:
        good = isinstance(self.path, str) and re.fullmatch("/[!-~]*", self.path) is not None
        expected = "a path such as '/health', in ASCII, without host and port"
        _check(good, f"Http({self.path!r})", expected)
        _check(type(self.status) is int, f"Http(status={self.status!r})", "one such as 200")
        good = isinstance(self.timeout, (int, float)) and self.timeout > 0
        _check(good, f"Http(timeout={self.timeout!r})", "seconds, above 0")

    def check(self, target: Target) -> None:
        """Ask once; any other status is "not yet"."""
        import http.client  # not at import: it brings ssl and email along

        port = target.port if self.port is None else target.port_of(self.port)
        connection = http.client.HTTPConnection(target.host, port, timeout=self.timeout)
        with contextlib.closing(connection):
            connection.request("GET", self.path)
            status = connection.getresponse().status
        if status != self.status:
            raise NotReadyError(f"status {status} instead of {self.status}")


@dataclass(frozen=True)
class Exec:
    """Ready when a command in the container exits with 0 (each try costs Docker about 0.1 s)."""

    argv: Sequence[str]

    def __post_init__(self) -> None:
        good = isinstance(self.argv, Sequence) and not isinstance(self.argv, (str, bytes))
        good = good and len(self.argv) > 0 and all(isinstance(word, str) for word in self.argv)
        _check(good, f"Exec({self.argv!r})", "a list of arguments such as ['pg_isready', '-q']")

    def check(self, target: Target) -> None:
        """Run the command once."""
        result = target.exec(self.argv)
        if result.exit_code != 0:
            raise NotReadyError(f"exit code {result.exit_code}: {result.output.strip()[-200:]}")

    def __repr__(self) -> str:
        # Only the command's name: arguments may hold passwords.
        return f"Exec({self.argv[0]}, {len(self.argv) - 1} arguments)"


@dataclass(frozen=True)
class LogLine:
    """Ready when the log has enough lines that match.

    Args:
        pattern: A regular expression, searched for in each line.
        times: How many lines must match (a server that starts twice says it twice).
    """

    pattern: str
    times: int = 1

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except (re.error, TypeError) as error:
            raise DeclarationError(
                f"LogLine({self.pattern!r}) cannot be used: it is no regular expression ({error}); "
                "re.escape makes one of a plain text"
            ) from None
        good = type(self.times) is int and self.times > 0
        _check(good, f"LogLine(times={self.times!r})", "a count, above 0")

    def check(self, target: Target) -> None:
        """Read what the container has logged since its latest start, once."""
        _LogWatch(self, target, follow=False).check(target)

    @contextlib.contextmanager
    def watching(self, target: Target) -> Iterator[Probe]:
        """The same, but for the log to be read once, while it is written."""
        watch = _LogWatch(self, target, follow=True)
        try:
            yield watch
        finally:
            watch.stop()


class _LogWatch:
    """Counts the lines that match; if it follows, in a thread, and anew when the log breaks off."""

    def __init__(self, probe: LogLine, target: Target, *, follow: bool) -> None:
        self._probe, self._target, self._follow = probe, target, follow
        self._begin()

    def _begin(self) -> None:
        self._seen = 0
        self._error: Exception | None = None
        running = self._target.running
        lines, self.stop = running.engine.log_lines(
            running.container, after=running.log_start, follow=self._follow
        )
        name = f"orchestrator-log-line-{self._target.alias}"
        self._thread = threading.Thread(target=self._count, args=[lines], name=name, daemon=True)
        self._thread.start()
        if not self._follow:
            self._thread.join()

    def _count(self, lines: Iterable[str]) -> None:
        search = re.compile(self._probe.pattern).search
        try:
            for _ in filter(search, lines):
                self._seen += 1
                if self._seen == self._probe.times:
                    break
            self.stop()
        except Exception as error:  # noqa: BLE001 - whoever waits raises it
            self._error = error

    def check(self, _: Target) -> None:
        """Look at the count."""
        over, seen, error = not self._thread.is_alive(), self._seen, self._error
        if seen < self._probe.times:
            if over and self._follow:
                self._begin()
            raise NotReadyError(f"{seen} of {self._probe.times} log lines match") from error


@dataclass(frozen=True)
class Healthcheck:
    """Ready when Docker's own healthcheck of the image says ``healthy``."""

    def check(self, target: Target) -> None:
        """Look at the container once."""
        state = target.state()
        if state is None:
            raise NotReadyError("the container is gone")
        if state.health is None:
            raise DeclarationError(f"{target.alias}: its image has no HEALTHCHECK")
        if state.health != "healthy":
            raise NotReadyError(f"the container is {state.health}")


@dataclass(frozen=True)
class Call:
    """Ready when a function of the service returns without an error, and not False.

    It is called in a thread of its own, which is left behind when the deadline passes meanwhile.
    """

    function: Callable[[Any], object]

    def __post_init__(self) -> None:
        _check(callable(self.function), f"Call({self.function!r})", "a function of the service")

    def check(self, target: Target) -> None:
        """Call the function once."""
        if self.function(target) is False:
            raise NotReadyError("the function returned False")

    def __repr__(self) -> str:
        return f"Call({getattr(self.function, '__qualname__', self.function)})"


@dataclass(frozen=True, init=False)
class All:
    """Ready when every one of several probes is, tried in order."""

    probes: tuple[Probe, ...]

    def __init__(self, *probes: Probe) -> None:
        good = bool(probes) and all(map(is_probe, probes))
        _check(good, f"All({', '.join(map(repr, probes))})", "probes such as Tcp()")
        object.__setattr__(self, "probes", probes)

    def check(self, target: Target) -> None:
        """Try each once."""
        for probe in self.probes:
            probe.check(target)

    @contextlib.contextmanager
    def watching(self, target: Target) -> Iterator[Probe]:
        """The same, with every log that is asked for read once."""
        with contextlib.ExitStack() as stack:
            yield All(*(stack.enter_context(watching(probe, target)) for probe in self.probes))


def _check(good: bool, probe: str, expected: str) -> None:  # noqa: FBT001 - what is checked
    """Raise DeclarationError unless a probe can ever succeed."""
    if not good:
        raise DeclarationError(f"{probe} cannot be used: expected {expected}")
