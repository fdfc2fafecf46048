"""The probes: each asks a server once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import DeclarationError
from orchestrator.probes.target import NotReadyError, connect, is_probe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.probes.target import Probe, Target

_SILENCE: Final = 0.1  # a proxy on a busy or distant machine takes its time to hang up


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
