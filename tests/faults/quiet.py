"""Keeping the sweeps of other processes on this machine away from what a test has planted."""

import contextlib
import time
from collections.abc import Iterator
from typing import Final

from orchestrator.engine import Endpoint
from orchestrator.sessions.identity import hold
from orchestrator.sessions.reap import sweep_lock

_DEADLINE: Final = 180.0


@contextlib.contextmanager
def no_sweeps(url: str) -> Iterator[None]:
    """Hold the lock that every sweep of this daemon takes; starts then go on without one."""
    deadline = time.monotonic() + _DEADLINE
    while True:
        if lock := hold(sweep_lock(Endpoint(url=url))):
            with lock:
                yield
            return
        if time.monotonic() > deadline:
            raise AssertionError("another process sweeps all the time")
        time.sleep(0.01)
