"""Waiting: `poll`, the one deadline loop, and how a server is awaited that may end meanwhile."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from typing import TYPE_CHECKING, Final, TypeVar

from orchestrator.errors import (
    DeclarationError,
    MissingDriverError,
    ServiceExitedError,
    ServiceNotReadyError,
)
from orchestrator.probes.checks import ATTEMPT, All, Call, Http, NotReadyError, Tcp, watching

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.engine.api import ContainerState
    from orchestrator.probes.checks import Probe, Target

_INTERVAL: Final = 0.015  # seconds between two attempts
_SHARE: Final = 0.02  # of the time waited so far: what is slow is asked less often
_LIVENESS_INTERVAL: Final = 0.1
# In /proc/net/tcp, whose addresses are words of the machine's byte order.
_LISTENS: Final = "0A"
_LOOPBACK: Final = re.compile(r"(?:0{16}FFFF0000)?[0-9A-F]{6}7F|0{24}01000000")
_DNS: Final = "0B00007F"  # Docker's own, 127.0.0.11
_LAST_LINES: Final = 30  # of a container's log, in an error
_FINAL: Final = (ServiceExitedError, DeclarationError, MissingDriverError)  # time mends none

FROZEN: Final = "it answers nobody. Was it frozen (SIGSTOP, docker pause), and not thawed?"

Answer = TypeVar("Answer")


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
    target: Target, *, timeout: float | None = None, cancelled: Callable[[], bool] = lambda: False
) -> None:
    """Return when a service is ready, or nobody waits any more.

    Raises:
        ServiceExitedError: It ended.
        ServiceNotReadyError: It was not ready in so many seconds, or its ``startup_timeout``.
    """
    probe = target.readiness()
    if probe is not None:
        seconds = target.startup_timeout if timeout is None else timeout
        wait_until_ready(probe, target, timeout=seconds, cancelled=cancelled)
        return
    state = target.state()
    if state is None or (state.ended and state.exit_code != 0):
        raise exited(target, state)


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


def wait_until_ready(
    probe: Probe, target: Target, *, timeout: float, cancelled: Callable[[], bool] = lambda: False
) -> None:
    """Try a probe until it succeeds, or nobody waits any more (`cancelled`).

    Raises:
        ServiceExitedError: The container ended; raised at once, not at the deadline.
        DeclarationError: The probe can never succeed; raised at once too.
        ServiceNotReadyError: The deadline passed; the probe's last error is the cause.
    """
    started = time.monotonic()
    attempts, next_look = 0, 0.0

    def attempt() -> bool:
        nonlocal attempts, next_look
        if not cancelled():
            attempts += 1
            try:
                watched.check(target)
            except Exception:
                if time.monotonic() >= next_look:  # an inspect costs 3 ms
                    next_look = time.monotonic() + _LIVENESS_INTERVAL
                    _check_alive(target)
                raise
        return True

    def temporary(error: BaseException) -> bool:
        return isinstance(error, Exception) and not isinstance(error, _FINAL)

    def try_probe() -> None:
        poll(attempt, timeout=timeout, retry_on=temporary)

    try:
        with watching(probe, target) as watched:
            bounded(try_probe, timeout=timeout + ATTEMPT, cancelled=cancelled)
    except _FINAL as error:
        if not isinstance(error, ServiceExitedError) or not _has_logged(probe, target):
            raise
    except Exception as error:
        _check_alive(target)
        error.with_traceback(None)  # the loop's frames say nothing
        seconds = time.monotonic() - started
        # Whoever waits so shortly asks only whether a server that was ready answers.
        hint = _where_it_listens(probe, target) if timeout > ATTEMPT else ""
        raise ServiceNotReadyError(
            f"{called(target.alias, target.image)} is not ready: {probe} did not succeed in "
            f"{seconds:.1f} s and {attempts} attempts; the last said: "
            f"{str(error) or type(error).__name__}{hint}",
            service=target.alias,
            probe=str(probe),
            seconds=seconds,
            attempts=attempts,
            logs=target.logs(tail=_LAST_LINES),
        ) from error


def _has_logged(probe: Probe, target: Target) -> bool:
    """Whether a container that has ended had become ready: its last words count."""
    with watching(probe, target) as watched, contextlib.suppress(Exception):
        if watched is not probe:  # it is one of logs
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
    return ServiceExitedError(
        f"{called(target.alias, target.image)} {how_it_ended(state)}{_also(target.why_ended())}",
        service=alias,
        exit_code=state.exit_code,
        oom_killed=state.oom_killed,
        logs=target.logs(tail=_LAST_LINES),
    )


def called(alias: str, image: str | None) -> str:
    """Attribute and image, as in ``db: postgres:15-alpine``."""
    short = (image or "").partition("@")[0].removeprefix("docker.io/").removeprefix("library/")
    return f"{alias}: {short}" if short else alias


def _where_it_listens(probe: Probe, target: Target) -> str:
    """What keeps a server out of reach: another port, or an address that is its container's own."""
    wanted = _asked_port(probe, target)
    if not wanted:
        return ""
    try:
        table = target.exec(["cat", "/proc/net/tcp", "/proc/net/tcp6"]).output
    except Exception:  # noqa: BLE001 - there is no `cat`, or it runs no more
        return ""
    listening: dict[int, set[bool]] = {}  # port to whether others than itself reach it
    for words in map(str.split, table.splitlines()):
        if words[3:4] == [_LISTENS]:
            address, _, port = words[1].rpartition(":")
            if address != _DNS:
                listening.setdefault(int(port, 16), set()).add(not _LOOPBACK.fullmatch(address))
    if True in listening.get(wanted, ()):
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


def _asked_port(probe: Probe, target: Target) -> int | None:
    """The container port that a probe needs, if it needs one."""
    if isinstance(probe, All):
        return next(filter(None, (_asked_port(each, target) for each in probe.probes)), None)
    if not isinstance(probe, (Tcp, Http, Call)):
        return None
    main = next(iter(target.container_ports()), "")
    port = getattr(probe, "port", None)
    return port or (int(main.partition("/")[0]) if main.endswith("/tcp") else None)


def how_it_ended(state: ContainerState) -> str:
    """Why a container that has ended did so, and with which exit code."""
    reason = "was killed for lack of memory (OOM)" if state.oom_killed else "exited"
    return f"{reason} with exit code {state.exit_code}{_also(state.error)}"


def _also(error: str) -> str:
    return f": {error}" if error else ""


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
