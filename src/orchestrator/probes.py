"""Readiness: how to tell that a server will answer, and the one loop that waits for it.

A probe is tried every 15 ms until it succeeds or the deadline passes. It looks from the host, as
the test will: Docker's proxy accepts connections before the server listens, so an open port proves
nothing. Whether the container is still alive is checked in the loop, so no probe has to.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from orchestrator.errors import (
    DeclarationError,
    MissingDriverError,
    ServiceExitedError,
    ServiceNotReadyError,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from orchestrator.engine.port import ContainerState, ExecResult

__all__ = ["All", "Call", "Exec", "Healthcheck", "Http", "LogLine", "NotReadyError", "Probe", "Tcp"]

INTERVAL: Final = 0.015
ATTEMPT: Final = 0.5
_LIVENESS_INTERVAL: Final = 0.1
_SILENCE: Final = 0.1  # a proxy on a busy or distant machine takes its time to hang up
_LAST_LINES: Final = 30
_FINAL: Final = (
    ServiceExitedError,
    DeclarationError,
    MissingDriverError,
)  # time mends none


class NotReadyError(Exception):
    """A probe's way to say "not yet"; it ends as the cause of `ServiceNotReadyError`."""


class Target(Protocol):
    """What a probe may see of a service."""

    @property
    def alias(self) -> str:
        """The service's name in its class."""

    @property
    def host(self) -> str:
        """Where its ports are published."""

    @property
    def port(self) -> int:
        """Its main port, as published."""

    def port_of(self, container_port: int) -> int:
        """Where a container port is published."""

    def logs(self, tail: int | None = None) -> str:
        """What the container wrote."""

    def exec(self, argv: Sequence[str]) -> ExecResult:
        """Run a command in the container."""

    def state(self) -> ContainerState | None:
        """The container now."""

    def why_ended(self) -> str:
        """What the log of an ended server tells of the reason; empty if nothing."""


class Probe(Protocol):
    """Tells whether a service is ready."""

    def check(self, target: Target) -> None:
        """Return when the service is ready; raise anything when it is not yet."""


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

    def __str__(self) -> str:
        return f"Tcp({self.port or 'main port'})"


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
        if not (isinstance(self.path, str) and self.path.startswith("/")):
            raise DeclarationError(
                f"Http({self.path!r}) cannot be used: expected a path such as '/health'; host and "
                "port are the service's"
            )
        if type(self.status) is not int:
            raise DeclarationError(
                f"Http(status={self.status!r}) cannot be used: expected one such as 200"
            )
        if not isinstance(self.timeout, (int, float)) or not self.timeout > 0:
            raise DeclarationError(
                f"Http(timeout={self.timeout!r}) cannot be used: expected seconds, above 0"
            )

    def check(self, target: Target) -> None:
        """Ask once."""
        import http.client  # not at import: it brings ssl and email along

        port = target.port if self.port is None else target.port_of(self.port)
        connection = http.client.HTTPConnection(target.host, port, timeout=self.timeout)
        try:
            connection.request("GET", self.path)
            status = connection.getresponse().status
        finally:
            connection.close()
        if status != self.status:
            raise NotReadyError(f"status {status} instead of {self.status}")

    def __str__(self) -> str:
        return f"Http({self.path})"


@dataclass(frozen=True)
class Exec:
    """Ready when a command in the container exits with 0 (each try costs Docker about 0.1 s)."""

    argv: Sequence[str]

    def __post_init__(self) -> None:
        words = [] if isinstance(self.argv, (str, bytes)) else list(self.argv)
        if not words or not all(isinstance(word, str) for word in words):
            raise DeclarationError(
                f"Exec({self.argv!r}) cannot be used: expected a list of arguments such as "
                "['pg_isready', '--quiet']"
            )

    def check(self, target: Target) -> None:
        """Run the command once."""
        result = target.exec(self.argv)
        if result.exit_code != 0:
            raise NotReadyError(f"exit code {result.exit_code}: {result.output.strip()[-200:]}")

    def __str__(self) -> str:
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
        if type(self.times) is not int or self.times < 1:
            raise DeclarationError(
                f"LogLine(times={self.times!r}) cannot be used: expected a count, above 0"
            )

    def check(self, target: Target) -> None:
        """Read the log once."""
        pattern = re.compile(self.pattern)
        seen = sum(1 for line in target.logs().splitlines() if pattern.search(line))
        if seen < self.times:
            raise NotReadyError(f"{seen} of {self.times} log lines match")

    def __str__(self) -> str:
        return f"LogLine({self.pattern!r})"


@dataclass(frozen=True)
class Healthcheck:
    """Ready when Docker's own healthcheck of the image says ``healthy``."""

    def check(self, target: Target) -> None:
        """Look at the container once."""
        state = target.state()
        if state is None:
            raise NotReadyError("the container is gone")
        if state.health is None:
            raise DeclarationError(
                f"{target.alias}: the image has no HEALTHCHECK; use another probe"
            )
        if state.health != "healthy":
            raise NotReadyError(f"the container is {state.health}")

    def __str__(self) -> str:
        return "Healthcheck()"


@dataclass(frozen=True)
class Call:
    """Ready when a function of the service returns without an error, and not False.

    It is called in a thread of its own, which is left behind when the deadline passes meanwhile.
    """

    function: Callable[[Any], object]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise DeclarationError(
                f"Call({self.function!r}) cannot be used: expected a function of the service"
            )

    def check(self, target: Target) -> None:
        """Call the function once."""
        if self.function(target) is False:
            raise NotReadyError("the function returned False")

    def __str__(self) -> str:
        return f"Call({getattr(self.function, '__qualname__', self.function)})"


@dataclass(frozen=True, init=False)
class All:
    """Ready when every one of several probes is, tried in order."""

    probes: tuple[Probe, ...]

    def __init__(self, *probes: Probe) -> None:
        if not probes:
            raise DeclarationError("All() cannot be used: expected probes such as Tcp()")
        for probe in probes:
            if not is_probe(probe):
                raise DeclarationError(
                    f"All(…) cannot be used with {probe!r}: expected probes such as Tcp()"
                )
        object.__setattr__(self, "probes", probes)

    def check(self, target: Target) -> None:
        """Try each once."""
        for probe in self.probes:
            probe.check(target)

    def __str__(self) -> str:
        return f"All({', '.join(map(str, self.probes))})"


def is_probe(value: object) -> bool:
    """Whether a value can be tried; the class of a probe cannot, ``Tcp`` for ``Tcp()``."""
    return not isinstance(value, type) and callable(getattr(value, "check", None))


def connect(target: Target, *, port: int | None = None) -> socket.socket:
    """Open a connection to a published port; reads and writes are bounded."""
    import socket  # not at import, as above

    published = target.port if port is None else target.port_of(port)
    try:
        return socket.create_connection((target.host, published), timeout=ATTEMPT)
    except OSError as error:
        raise NotReadyError(
            f"port {published} of {target.host} cannot be reached ({error}); if that is not where "
            "the daemon's ports are, ORCHESTRATOR_HOST=… says where"
        ) from error


def wait_until_ready(
    probe: Probe, target: Target, *, timeout: float, cancelled: Callable[[], bool] = lambda: False
) -> None:
    """Try a probe until it succeeds.

    Args:
        probe: What to try.
        target: The service to try it on.
        timeout: Seconds it has.
        cancelled: Says when nobody waits any more; then this returns early.

    Raises:
        ServiceExitedError: The container ended; raised at once, not at the deadline.
        DeclarationError: The probe can never succeed; raised at once too.
        ServiceNotReadyError: The deadline passed; the probe's last error is the cause.
    """
    import tenacity  # not at import: declaring services must load no third-party module

    started = time.monotonic()
    liveness = _Liveness(target)
    attempts = 0

    def attempt() -> None:
        nonlocal attempts
        if cancelled():
            return
        attempts += 1
        try:
            probe.check(target)
        except Exception:
            liveness.check()
            raise

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_delay(timeout),
        wait=tenacity.wait_fixed(INTERVAL),
        retry=tenacity.retry_if_not_exception_type(_FINAL)
        & tenacity.retry_if_exception_type(Exception),
        reraise=True,
    )
    try:
        _bounded(lambda: retrying(attempt), timeout=timeout + ATTEMPT, cancelled=cancelled)
    except _FINAL:
        raise
    except Exception as error:
        liveness.check(now=True)
        error.with_traceback(None)  # the loop's frames say nothing
        seconds = time.monotonic() - started
        raise ServiceNotReadyError(
            f"{target.alias} is not ready: {probe} did not succeed in {seconds:.1f} s "
            f"and {attempts} attempts; the last said: {str(error) or type(error).__name__}",
            service=target.alias,
            probe=str(probe),
            seconds=seconds,
            attempts=attempts,
            logs=target.logs(tail=_LAST_LINES),
        ) from error


def _bounded(work: Callable[[], object], *, timeout: float, cancelled: Callable[[], bool]) -> None:
    """Do something in a thread, because a probe that hangs cannot be ended, only left behind.

    Raises:
        NotReadyError: It hangs.
    """
    from concurrent import futures  # not at import, as above

    outcome: futures.Future[object] = futures.Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            outcome.set_exception(error)

    deadline = time.monotonic() + timeout
    threading.Thread(target=run, name="orchestrator-probe", daemon=True).start()
    while not cancelled():
        left = deadline - time.monotonic()
        if futures.wait([outcome], timeout=min(max(left, 0), _LIVENESS_INTERVAL)).done:
            outcome.result()
            return
        if left <= 0:
            raise NotReadyError("nothing, and still runs")


class _Liveness:
    """Asks the daemon now and then whether the container still runs; an inspect costs 3 ms."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._next = 0.0

    def check(self, *, now: bool = False) -> None:
        """Raise `ServiceExitedError` when the container has ended."""
        if not now and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LIVENESS_INTERVAL
        state = self._target.state()
        if state is not None and not state.ended:
            return
        raise exited(self._target, state) from None


def exited(target: Target, state: ContainerState | None) -> ServiceExitedError:
    """The error that tells how a container ended."""
    alias = target.alias
    if state is None:
        return ServiceExitedError(
            f"{alias}: its container was removed by somebody else",
            service=alias,
            exit_code=-1,
            oom_killed=False,
        )
    return ServiceExitedError(
        f"{alias} {how_it_ended(state)}{_also(target.why_ended())}",
        service=alias,
        exit_code=state.exit_code,
        oom_killed=state.oom_killed,
        logs=target.logs(tail=_LAST_LINES),
    )


def how_it_ended(state: ContainerState) -> str:
    """Why a container that has ended did so, and with which exit code."""
    reason = "was killed for lack of memory (OOM)" if state.oom_killed else "exited"
    return f"{reason} with exit code {state.exit_code}{_also(state.error)}"


def _also(error: str) -> str:
    return f": {error}" if error else ""
