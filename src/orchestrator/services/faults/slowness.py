"""`slowed`: a service behind a slow, lossy link."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.errors import DeclarationError, ServiceError
from orchestrator.probes.waiting import INTERVAL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.services.runtime import Handle

LOCK_ENTRY: Final = "python"
_SOURCE: Final = Path(__file__).with_name("slow_link.py")
_PROGRAM: Final = "/slow_link.py"
_IN_PLACE: Final = 15.0  # seconds


@contextlib.contextmanager
def slowed(service: Handle, *, latency: float, jitter: float, loss: float) -> Iterator[None]:
    """Delay and drop what the service sends while the block runs."""
    _check(latency=latency, jitter=jitter, loss=loss)
    running = service.running
    with running.helper(
        running.container,
        entry=LOCK_ENTRY,
        command=["python3", "-u", _PROGRAM, *(repr(float(it)) for it in (latency, jitter, loss))],
        files={_PROGRAM: _SOURCE.read_bytes()},
        capabilities=["NET_ADMIN", "NET_RAW"],
        devices=["/dev/net/tun"],
    ) as helper:
        _await(helper, service)
        yield


def _check(*, latency: float, jitter: float, loss: float) -> None:
    for name, value, most in (("latency", latency, 60), ("jitter", jitter, 60), ("loss", loss, 1)):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not 0 <= value <= most:
            unit = "seconds" if name != "loss" else "the part that is lost"
            raise DeclarationError(
                f"slowed({name}={value!r}) cannot be used: expected {unit}, from 0 to {most}"
            )
    if not (latency or jitter or loss):
        raise DeclarationError("slowed() without latency=, jitter= or loss= would slow nothing")


def _await(helper: str, service: Handle) -> None:
    engine = service.running.engine
    deadline = time.monotonic() + _IN_PLACE
    while "slow" not in (said := engine.logs(helper)).split():
        state = engine.container(helper)
        if state is None or state.ended or time.monotonic() > deadline:
            raise ServiceError(
                f"{service.alias} could not be slowed: {said.strip() or 'no answer'}",
                service=service.alias,
            )
        time.sleep(INTERVAL)
