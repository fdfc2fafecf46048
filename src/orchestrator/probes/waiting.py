"""The one loop that waits until a server is ready, has ended, or ran out of time."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from orchestrator.errors import (
    DeclarationError,
    MissingDriverError,
    ServiceExitedError,
    ServiceNotReadyError,
)
from orchestrator.probes.ending import LAST_LINES, exited
from orchestrator.probes.target import ATTEMPT, NotReadyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.probes.target import Probe, Target

INTERVAL: Final = 0.015
"""Seconds between two attempts."""
_LIVENESS_INTERVAL: Final = 0.1
_FINAL: Final = (ServiceExitedError, DeclarationError, MissingDriverError)  # time mends none


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
            logs=target.logs(tail=LAST_LINES),
        ) from error


def _bounded(work: Callable[[], object], *, timeout: float, cancelled: Callable[[], bool]) -> None:
    """Do something in a thread, because a probe that hangs cannot be ended, only left behind.

    Raises:
        NotReadyError: It hangs.
    """
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
