"""What a worker knows about the services of a test class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import OrchestratorError
from orchestrator.mixin import ServicesMixin, declared_services
from orchestrator.runner.unit import Declared
from orchestrator.services.hooks import HANDLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.services.service import Service


def of(cls: type) -> tuple[Declared, ...]:
    """The services a class starts; reading a declaration starts nothing."""
    if not issubclass(cls, ServicesMixin) or getattr(cls, "__unittest_skip__", False):
        return ()
    try:
        services = declared_services(cls)
    except OrchestratorError:  # of a Compose file; the class says so when it starts
        return ()
    return tuple(
        Declared(
            alias=alias,
            scope=service.scope,
            memory=int(service.memory or service.usual_memory),
        )
        for alias, service in services.items()
    )


def facts(cls: type) -> dict[str, str]:
    """What a report tells about the running services of a class, as ``alias.fact``."""
    return {
        f"{alias}.{name}": str(value)
        for alias, service in _running(cls)
        for name, value in (("image", service.image), ("container", service.container_id[:12]))
    }


def secrets(cls: type) -> tuple[str, ...]:
    """What must not be shown of the running services' logs."""
    return tuple(secret for _, service in _running(cls) for secret in service.secrets())


def _running(cls: type) -> Iterator[tuple[str, Service]]:
    handles = vars(cls).get(HANDLES)
    if not handles:
        return
    for alias, declared in declared_services(cls).items():
        if service := handles.get(declared):
            yield alias, service


def supervise(pipe: int, *, patience: float) -> None:
    """Have this worker's containers outlive it until the parent has read their logs.

    Args:
        pipe: The reading end of a pipe that the parent holds and closes then.
        patience: Seconds in which this worker ends by itself when the parent is gone.
    """
    from orchestrator.sessions import supervised  # plain suites need none of this

    supervised(pipe, grace=patience)
