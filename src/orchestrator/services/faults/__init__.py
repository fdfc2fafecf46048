"""Faults: what a server does in production and no mock can. Published ports stay the same."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

from orchestrator.errors import EngineError, ServiceError
from orchestrator.probes.waiting import INTERVAL
from orchestrator.services.once import OwnStack
from orchestrator.services.readiness import await_ready
from orchestrator.services.runtime import host_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.services.runtime import Handle

_END: Final = 10.0


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


def kill(service: Handle, *, signal: str) -> None:
    """Send a signal to the service's first process; return when it has ended."""
    running = service.running
    running.engine.kill_container(running.container, signal=signal)
    deadline = time.monotonic() + _END
    while (state := service.state()) is not None and not state.ended:
        if time.monotonic() > deadline:
            raise ServiceError(
                f"{service.alias} still runs {_END:g} s after {signal}", service=service.alias
            )
        time.sleep(INTERVAL)


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
    state = service.state()
    if state is not None and not state.ended:
        await_ready(service)


@contextlib.contextmanager
def _unless_ended(service: Handle) -> Iterator[None]:
    """Undo a fault; on a container that has ended meanwhile there is nothing to undo."""
    try:
        yield
    except EngineError:
        state = service.state()
        if state is not None and not state.ended:
            raise
