"""Which service waits for which."""

from __future__ import annotations

import graphlib
from typing import TYPE_CHECKING, Final

from orchestrator.errors import DeclarationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.services.service import Service

_LIFE: Final = ("test", "class", "process")


def in_order(services: Mapping[str, Service]) -> Mapping[str, Service]:
    """The services, by alias, so that each comes after those it depends on.

    Raises:
        DeclarationError: They depend on one another in a circle, or on a service that the class
            does not have.
    """
    graph = {alias: needed(alias, services) for alias in services}
    try:
        return {
            alias: services[alias] for alias in graphlib.TopologicalSorter(graph).static_order()
        }
    except graphlib.CycleError as error:
        raise DeclarationError(
            f"services depend on one another in a circle: {' -> '.join(error.args[1])}"
        ) from None


def needed(alias: str, services: Mapping[str, Service]) -> Sequence[str]:
    """The aliases of the services that one depends on."""
    aliases = {service: name for name, service in services.items()}
    found = []
    for needs in services[alias].depends_on:
        name = needs if isinstance(needs, str) else aliases.get(needs)
        if name is None or name not in services:
            raise DeclarationError(
                f"{alias} depends on {needs!r}, which is not a service of this class; "
                f"it has {', '.join(services)}"
            )
        if _LIFE.index(services[name].scope) < _LIFE.index(services[alias].scope):
            raise DeclarationError(
                f"{alias} (scope {services[alias].scope!r}) depends on {name} (scope "
                f"{services[name].scope!r}), which does not live as long"
            )
        found.append(name)
    return found
