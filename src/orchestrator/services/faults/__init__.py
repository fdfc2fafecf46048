"""Faults, methods of `Service`: what a server does in production. Published ports stay the same."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import DeclarationError, EngineError, ServiceError, ServiceExitedError
from orchestrator.probes.waiting import await_ready, poll
from orchestrator.services.once import OwnStack
from orchestrator.services.options import is_positive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import ParamSpec, TypeVar

    from orchestrator.engine.docker import Engine
    from orchestrator.probes import Target
    from orchestrator.services.hooks import Runtime

    Given = ParamSpec("Given")
    Returned = TypeVar("Returned")

LOCK_ENTRY: Final = "python"
"""What `slowed` runs beside the service."""
_PROGRAM: Final = "/slow_link.py"
_END: Final = 10.0  # seconds
_SLOW: Final = 15.0


def of_own(fault: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Refuse a fault of a server that other classes and processes work with."""

    @functools.wraps(fault)
    def checked(*args: Given.args, **options: Given.kwargs) -> Returned:
        service: Any = args[0]
        if service.scope == "run":
            raise DeclarationError(
                f"{service.alias}.{fault.__name__}() would strike everybody who works with this "
                "server: with scope='run' that are other classes and workers, too. Declare the "
                "service with scope='class' or 'test' in the class that does this"
            )
        return fault(*args, **options)

    return checked


@contextlib.contextmanager
def paused(service: Target) -> Iterator[None]:
    """Freeze every process of the server while the block runs: it accepts, and is silent."""
    running: Runtime = service.running
    engine, container = running.engine, running.container
    with OwnStack() as undo:
        engine.pause_container(container)
        undo.callback(_unless_ended, service, lambda: engine.unpause_container(container))
        yield


@contextlib.contextmanager
def partitioned(service: Target) -> Iterator[None]:
    """Cut the server off from everybody while the block runs."""
    running: Runtime = service.running

    def reconnect(network: str, address: str | None) -> None:
        running.engine.connect_network(
            network,
            container=running.container,
            aliases=running.networks[network],
            address=address,
        )

    with OwnStack() as undo:
        with OwnStack() as cutting:
            for network in running.networks:
                its = running.engine.disconnect_network(network, container=running.container)
                cutting.callback(_unless_ended, service, functools.partial(reconnect, network, its))
            # Only now, with all of them cut: it may have been cut off before.
            undo.callback(_unless_ended, service, lambda: await_ready(service))
            undo.push(cutting.pop_all())
        yield


@contextlib.contextmanager
def slowed(
    service: Target, *, latency: float = 0.0, jitter: float = 0.0, loss: float = 0.0
) -> Iterator[None]:
    """Put the server behind a bad link while the block runs, for everybody and on every port.

    All that it sends is concerned, on open connections, too, and arrives in order. A `restart` in
    the block ends the slowness.

    Args:
        service: The service itself.
        latency: Seconds by which each answer is late.
        jitter: Seconds by which that varies, more or less.
        loss: The part of packets that is lost, such as ``0.05``; TCP sends those again.

    Raises:
        ServiceError: The engine's kernel does not allow it, or the engine is rootless Podman.
    """
    from importlib import resources  # seldom needed; this package may be in an archive

    _check_slowness(latency=latency, jitter=jitter, loss=loss)
    running: Runtime = service.running
    if running.engine.is_podman and running.engine.is_rootless:
        raise _error(
            service,
            "cannot be slowed: rootless Podman leads this machine's connections around the "
            "server's network. Use Docker, or Podman with root",
        )
    with running.helper(
        running.container,
        entry=LOCK_ENTRY,
        entrypoint=["python3", "-u", _PROGRAM],
        command=[repr(float(each)) for each in (latency, jitter, loss)],
        files={_PROGRAM: resources.files(__package__).joinpath("slow_link.py").read_bytes()},
        capabilities=["NET_ADMIN", "NET_RAW"],
        devices=["/dev/net/tun"],
    ) as helper:
        _await_slowness(helper, service)
        yield


def kill(service: Target, signal: str = "SIGKILL") -> None:
    """End the server as a crash does; returns when it has ended. `restart` brings it back."""
    running: Runtime = service.running
    running.engine.kill_container(running.container, signal=signal)
    if not poll(lambda: _has_ended(service), timeout=_END):
        raise _error(service, f"still runs {_END:g} s after {signal}")


def restart(service: Target) -> None:
    """Kill the server if it runs, start it, and return when it is ready again.

    Raises:
        ServiceError: It did not come back.
    """
    running: Runtime = service.running
    running.restarts += 1
    if not _has_ended(service):
        kill(service)
    running.log_start = running.engine.last_log_time(running.container)
    try:
        running.engine.start_container(running.container)
        await_ready(service)
    finally:
        running.log_start = ""
    service.started()


def _unless_ended(service: Target, undo: Callable[[], None]) -> None:
    """Undo a fault; on a container that has ended meanwhile there is nothing to undo."""
    try:
        undo()
    except (EngineError, ServiceExitedError):
        if not _has_ended(service):
            raise


def _has_ended(service: Target) -> bool:
    state = service.state()
    return state is None or state.ended


def _check_slowness(*, latency: float, jitter: float, loss: float) -> None:
    for name, value, most in (("latency", latency, 60), ("jitter", jitter, 60), ("loss", loss, 1)):
        if not (value == 0 or is_positive(value)) or value > most:
            unit = "seconds" if name != "loss" else "the part that is lost"
            raise DeclarationError(
                f"slowed({name}={value!r}) cannot be used: expected {unit}, from 0 to {most}"
            )
    if not (latency or jitter or loss):
        raise DeclarationError("slowed() without latency=, jitter= or loss= would slow nothing")


def _await_slowness(helper: str, service: Target) -> None:
    engine: Engine = service.running.engine

    def slow_or_over() -> bool:
        state = engine.container(helper)
        return "slow" in engine.logs(helper).split() or state is None or state.ended

    poll(slow_or_over, timeout=_SLOW)
    said = engine.logs(helper)
    if "slow" not in said.split():
        raise _error(service, f"could not be slowed: {said.strip() or 'no answer'}")


def _error(service: Target, what: str) -> ServiceError:
    return ServiceError(f"{service.alias} {what}", service=service.alias)
