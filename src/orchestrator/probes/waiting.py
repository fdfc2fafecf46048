"""Waiting: `poll`, the one deadline loop, and how a server is awaited that may end meanwhile."""

from __future__ import annotations

import contextlib
import functools
import math
import re
import threading
import time
from typing import TYPE_CHECKING, Final, TypeVar

from orchestrator.errors import (
    DeclarationError,
    EngineError,
    MissingDriverError,
    ServiceExitedError,
    ServiceNotReadyError,
)
from orchestrator.probes import ATTEMPT, All, Call, Http, NotReadyError, Tcp, watching
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.engine.api import ContainerState
    from orchestrator.probes import Probe, Target

_INTERVAL: Final = 0.015  # seconds between two attempts
_SHARE: Final = 0.02  # of the time waited so far: what is slow is asked less often
_LIVENESS_INTERVAL: Final = 0.1
_LIVENESS_SHARE: Final = 0.1  # of the time waited so far: an inspect costs us and the daemon 3 ms
# In /proc/net/tcp, whose addresses are words of the machine's byte order.
_LISTENS: Final = "0A"
_LOOPBACK: Final = re.compile(r"(?:0{16}FFFF0000)?[0-9A-F]{6}7F|0{24}01000000")
_DNS: Final = "0B00007F"  # Docker's own, 127.0.0.11
_LAST_LINES: Final = 30  # of a container's log, in an error
# Whether a port can be reached at all is tried so late and so seldom, in seconds, and so often.
_FIRST_TRY, _NEXT_TRY, _TRIES = 3.0, 1.5, 2
_CONNECT: Final = 5.0  # seconds for a connection, which nobody refuses where packets are dropped
_BUSY: Final = 0.02  # of a processor; what listens and waits takes less, also on a busy machine
_WATCHED: Final = 1.0  # seconds

FROZEN: Final = "it answers nobody. Was it frozen (SIGSTOP, docker pause), and not thawed?"

Answer = TypeVar("Answer")


class _OutOfReachError(NotReadyError):
    """The server listens, and its port cannot be reached from here."""


# Time mends none.
_FINAL: Final = (ServiceExitedError, DeclarationError, MissingDriverError, _OutOfReachError)


def poll(
    ask: Callable[[], Answer],
    *,
    timeout: float,
    interval: float = _INTERVAL,
    retry_on: Callable[[BaseException], bool] = lambda _: False,
) -> Answer:
    """Ask until the answer is true, or the time is over; the last answer, which may be false.

    Args:
        ask: What is called, at least once; its errors are raised, unless they are retried.
        timeout: Seconds after which it is not asked again.
        interval: Seconds between two calls, or a fiftieth of the time that it took so far: what is
            slow is asked less, and is late by little.
        retry_on: Which errors mean "not yet"; the last of them is raised when the time is over.
    """
    import tenacity  # not at import: declaring services must load no third-party module

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_delay(timeout),
        wait=lambda state: max(interval, _SHARE * (state.seconds_since_start or 0.0)),
        retry=tenacity.retry_if_exception(retry_on) | tenacity.retry_if_not_result(bool),
        retry_error_callback=lambda state: state.outcome and state.outcome.result(),
    )
    return retrying(ask)


def await_ready(
    target: Target,
    *,
    timeout: float | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    published: bool = False,
) -> None:
    """Return when a service is ready, or nobody waits any more (`cancelled`).

    Raises:
        ServiceExitedError: It ended; raised at once, not at the deadline.
        DeclarationError: Its probe can never succeed; raised at once too.
        ServiceNotReadyError: It was not ready in so many seconds, or by its deadline; or the port
            that was `published` is out of reach. The probe's last error is the cause.
    """
    probe = target.readiness()
    if probe is None:
        state = target.state()
        if state is None or (state.ended and state.exit_code != 0):
            raise exited(target, state)
        return
    seconds = deadline_of(target) if timeout is None else timeout
    started = time.monotonic()
    attempts, looks = 0, _Looks(probe, target, published=published)

    def attempt() -> bool:
        nonlocal attempts
        if not cancelled():
            attempts += 1
            try:
                watched.check(target)
            except Exception:
                looks.take()
                raise
        return True

    def temporary(error: BaseException) -> bool:
        return isinstance(error, Exception) and not isinstance(error, _FINAL)

    try:
        with watching(probe, target) as watched:
            tries = functools.partial(poll, attempt, timeout=seconds, retry_on=temporary)
            bounded(tries, timeout=seconds + ATTEMPT, cancelled=cancelled)
    except (ServiceExitedError, DeclarationError, MissingDriverError) as error:
        if not isinstance(error, ServiceExitedError) or not _became_ready(probe, target, error):
            raise
    except Exception as error:
        _check_alive(target)
        error.with_traceback(None)  # the loop's frames say nothing
        waited = time.monotonic() - started
        # Whoever waits so shortly asks only whether a server that was ready answers.
        final = isinstance(error, _OutOfReachError) or seconds <= ATTEMPT
        hint = "" if final else _why_not_ready(probe, target)
        raise ServiceNotReadyError(
            f"{called(target.alias, target.image)} is not ready: {probe} did not succeed in "
            f"{waited:.1f} s and {attempts} attempts; the last said: "
            f"{str(error) or type(error).__name__}{hint}",
            service=target.alias,
            probe=str(probe),
            seconds=waited,
            attempts=attempts,
            logs=target.logs(tail=_LAST_LINES),
        ) from error


def deadline_of(target: Target) -> float:
    """Seconds a service has to become ready: on a slow machine, more than it says."""
    return max(target.startup_timeout, Settings.from_environment().startup_timeout)


def answers(target: Target, *, patience: float = ATTEMPT) -> bool:
    """Whether a server answers within so many seconds; a frozen one accepts connections at most.

    Raises:
        ServiceExitedError: It has ended.
    """
    try:
        await_ready(target, timeout=patience)
    except ServiceNotReadyError:
        return False
    return True


class _Looks:
    """What is looked at when an attempt has failed, each in its time."""

    def __init__(self, probe: Probe, target: Target, *, published: bool) -> None:
        self._probe, self._target = probe, target
        self._began = time.monotonic()
        self._next_life = self._began
        self._next_try = self._began + _FIRST_TRY if published else math.inf
        self._cut_off = 0

    def take(self) -> None:
        """Whether it lives, and whether its port can be reached at all."""
        now = time.monotonic()
        if now >= self._next_life:
            self._next_life = now + max(_LIVENESS_INTERVAL, _LIVENESS_SHARE * (now - self._began))
            _check_alive(self._target)
        if now >= self._next_try:
            reason = _out_of_reach(self._probe, self._target)
            self._cut_off = self._cut_off + 1 if reason else 0
            if self._cut_off == _TRIES:
                raise _OutOfReachError(reason)
            self._next_try = time.monotonic() + _NEXT_TRY


def _became_ready(probe: Probe, target: Target, error: ServiceExitedError) -> bool:
    """Whether a container that has ended had become ready: its last words count, or a good end."""
    with watching(probe, target) as watched, contextlib.suppress(Exception):
        if watched is not probe or error.exit_code == 0:  # it is one of logs, or of an end
            probe.check(target)
            return True
    return False


def _check_alive(target: Target) -> None:
    state = target.state()
    if state is None or state.ended:
        raise exited(target, state) from None


def exited(target: Target, state: ContainerState | None) -> ServiceExitedError:
    """The error that says how a container ended; without a state, that somebody removed it."""
    alias = target.alias
    if state is None or state.status in ("dead", "removing"):
        text = f"{called(target.alias, target.image)}: its container was removed by somebody else"
        return ServiceExitedError(text, service=alias, exit_code=-1, oom_killed=False)
    ending, why = target.running.engine.ending(state), target.why_ended()
    return ServiceExitedError(
        f"{called(target.alias, target.image)} {ending}{f': {why}' if why else ''}",
        service=alias,
        exit_code=ending.exit_code,
        oom_killed=ending.oom_killed,
        logs=target.logs(tail=_LAST_LINES),
    )


def called(alias: str, image: str | None) -> str:
    """Attribute and image, as in ``db: postgres:15-alpine``."""
    short = (image or "").partition("@")[0].removeprefix("docker.io/").removeprefix("library/")
    return f"{alias}: {short}" if short else alias


def _why_not_ready(probe: Probe, target: Target) -> str:
    """What keeps a server out of reach, or that it is still at work."""
    if reason := _out_of_reach(probe, target):
        return f". {reason}"
    if _is_busy(target):
        return (
            ". It is still at work, and may only need longer: startup_timeout=…, or "
            "ORCHESTRATOR_STARTUP_TIMEOUT for every service"
        )
    return _where_it_listens(probe, target)


def _is_busy(target: Target) -> bool:
    engine, container = target.running.engine, target.running.container
    with contextlib.suppress(EngineError):
        before, began = engine.cpu_seconds(container), time.monotonic()
        time.sleep(_WATCHED)
        used: float = engine.cpu_seconds(container) - before
        return used > _BUSY * (time.monotonic() - began)
    return False


def _where_it_listens(probe: Probe, target: Target) -> str:
    """On another port than is asked for, or at an address that is its container's own."""
    wanted = _asked_port(probe, target)
    listening = _listening(target) if wanted else None
    if listening is None or True in listening.get(wanted or 0, ()):
        return ""
    if wanted in listening:
        return (
            f". It listens on port {wanted} of 127.0.0.1 in its container only, where nobody "
            "else reaches it; have it listen on 0.0.0.0"
        )
    if not listening:
        return ". Nothing in its container listens on any TCP port"
    others = ", ".join(map(str, sorted(listening)))
    return f". Nothing in its container listens on port {wanted}, but on {others}"


def _listening(target: Target) -> dict[int, set[bool]] | None:
    """The TCP ports on which a container listens, and whether others than itself reach them."""
    try:
        table = target.exec(["cat", "/proc/net/tcp", "/proc/net/tcp6"]).output
    except Exception:  # noqa: BLE001 - there is no `cat`, or it runs no more
        return None
    found: dict[int, set[bool]] = {}
    for words in map(str.split, table.splitlines()):
        if words[3:4] == [_LISTENS]:
            address, _, port = words[1].rpartition(":")
            if address != _DNS:
                found.setdefault(int(port, 16), set()).add(not _LOOPBACK.fullmatch(address))
    return found


def _out_of_reach(probe: Probe, target: Target) -> str:
    """How a published port cannot be reached from here, though the server listens; or nothing."""
    wanted = _asked_port(probe, target)
    if not wanted or f"{wanted}/tcp" not in target.container_ports():
        return ""
    import socket  # not at import: declaring loads no more than it needs

    where = target.host, target.port_of(wanted)
    try:
        socket.create_connection(where, _CONNECT).close()
    except OSError as error:
        if True not in (_listening(target) or {}).get(wanted, ()):
            return ""
        said = Settings.from_environment().host
        told = (
            f"ORCHESTRATOR_HOST={said} may not be its machine"
            if said
            else "The daemon may be elsewhere than it seems (Docker-in-Docker, a forwarded port or "
            "socket): ORCHESTRATOR_HOST names the machine where its published ports are"
        )
        return (
            f"It listens on port {wanted} in its container, but {where[0]}:{where[1]}, where that "
            f"is published, cannot be reached from here: {error.strerror or error}. {told}"
        )
    return ""


def _asked_port(probe: Probe, target: Target) -> int | None:
    """The container port that a probe needs, if it needs one."""
    if isinstance(probe, All):
        return next(filter(None, (_asked_port(each, target) for each in probe.probes)), None)
    if not isinstance(probe, (Tcp, Http, Call)):
        return None
    main = next(iter(target.container_ports()), "")
    port = getattr(probe, "port", None)
    return port or (int(main.partition("/")[0]) if main.endswith("/tcp") else None)


def bounded(
    work: Callable[[], object], *, timeout: float, cancelled: Callable[[], bool] = lambda: False
) -> None:
    """Do something in a thread, because a probe that hangs cannot be ended, only left behind."""
    from concurrent import futures  # not at import: most of a run's processes wait for nothing

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
