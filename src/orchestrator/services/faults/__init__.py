"""Faults: what a server does in production and no mock can. Published ports stay the same."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.errors import DeclarationError, EngineError, ServiceError
from orchestrator.probes.waiting import poll
from orchestrator.services.hooks import await_ready, host_names
from orchestrator.services.once import OwnStack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.services.hooks import Handle

LOCK_ENTRY: Final = "python"
"""What `slowed` runs beside the service."""
_SLOW_LINK: Final = Path(__file__).with_name("slow_link.py")
_PROGRAM: Final = "/slow_link.py"
_END: Final = 10.0  # seconds
_SLOW: Final = 15.0


@contextlib.contextmanager
def paused(service: Handle) -> Iterator[None]:
    """Freeze every process of the service while the block runs."""
    running = service.running
    with OwnStack() as undo:
        running.engine.pause_container(running.container)
        undo.callback(_thaw, service)
        yield


@contextlib.contextmanager
def partitioned(service: Handle) -> Iterator[None]:
    """Cut the service off its network, and so off everybody, while the block runs."""
    running = service.running
    with OwnStack() as undo:
        with OwnStack() as cutting:
            for network in running.networks:
                running.engine.disconnect_network(network, container=running.container)
                cutting.callback(_reconnect, service, network)
            undo.callback(_reconnected, service)  # only now: it may have been cut off before
            undo.push(cutting.pop_all())
        yield


@contextlib.contextmanager
def slowed(service: Handle, *, latency: float, jitter: float, loss: float) -> Iterator[None]:
    """Delay and drop what the service sends while the block runs."""
    _check_slowness(latency=latency, jitter=jitter, loss=loss)
    running = service.running
    with running.helper(
        running.container,
        entry=LOCK_ENTRY,
        command=["python3", "-u", _PROGRAM, *(repr(float(it)) for it in (latency, jitter, loss))],
        files={_PROGRAM: _SLOW_LINK.read_bytes()},
        capabilities=["NET_ADMIN", "NET_RAW"],
        devices=["/dev/net/tun"],
    ) as helper:
        _await_slowness(helper, service)
        yield


def kill(service: Handle, *, signal: str) -> None:
    """Send a signal to the service's first process; return when it has ended."""
    running = service.running
    running.engine.kill_container(running.container, signal=signal)
    if not poll(lambda: _has_ended(service), timeout=_END):
        raise ServiceError(
            f"{service.alias} still runs {_END:g} s after {signal}", service=service.alias
        )


def restart(service: Handle) -> None:
    """Kill the service if it runs, start it, and return when it is ready again."""
    running = service.running
    running.restarts += 1
    running.engine.restart_container(running.container)
    await_ready(service)
    service.started()


def _thaw(service: Handle) -> None:
    running = service.running
    with _unless_ended(service):
        running.engine.unpause_container(running.container)


def _reconnect(service: Handle, network: str) -> None:
    running = service.running
    with _unless_ended(service):
        running.engine.connect_network(
            network, container=running.container, aliases=host_names(running.alias)
        )


def _reconnected(service: Handle) -> None:
    if not _has_ended(service):
        await_ready(service)


@contextlib.contextmanager
def _unless_ended(service: Handle) -> Iterator[None]:
    """Undo a fault; on a container that has ended meanwhile there is nothing to undo."""
    try:
        yield
    except EngineError:
        if not _has_ended(service):
            raise


def _has_ended(service: Handle) -> bool:
    state = service.state()
    return state is None or state.ended


def _check_slowness(*, latency: float, jitter: float, loss: float) -> None:
    for name, value, most in (("latency", latency, 60), ("jitter", jitter, 60), ("loss", loss, 1)):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not 0 <= value <= most:
            unit = "seconds" if name != "loss" else "the part that is lost"
            raise DeclarationError(
                f"slowed({name}={value!r}) cannot be used: expected {unit}, from 0 to {most}"
            )
    if not (latency or jitter or loss):
        raise DeclarationError("slowed() without latency=, jitter= or loss= would slow nothing")


def _await_slowness(helper: str, service: Handle) -> None:
    engine, said = service.running.engine, ""

    def decided() -> bool:
        nonlocal said
        state, said = engine.container(helper), engine.logs(helper)
        return "slow" in said.split() or state is None or state.ended

    poll(decided, timeout=_SLOW)
    if "slow" not in said.split():
        raise ServiceError(
            f"{service.alias} could not be slowed: {said.strip() or 'no answer'}",
            service=service.alias,
        )
