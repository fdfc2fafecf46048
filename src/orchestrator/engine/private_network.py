"""A network for one class: from Docker's own pools, or from ours when those are used up."""

from __future__ import annotations

import ipaddress
import itertools
from typing import TYPE_CHECKING, Final

from orchestrator.engine.subnets import free_subnets, host_routes
from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.engine.port import Engine

_ATTEMPTS: Final = 64
# What daemons since 20.10 say: the first when the default pools end (about 30 networks), the
# others when somebody else took the subnet between our look and our create.
_USED_UP: Final = ("could not find an available", "all predefined address pools")
_OVERLAP: Final = ("overlaps with other one", "pool overlaps", "invalid pool request")


def create_private_network(
    engine: Engine, name: str, *, labels: Mapping[str, str], pool: ipaddress.IPv4Network
) -> str:
    """Create a bridge network and return its id.

    Args:
        engine: The daemon.
        name: The network's name.
        labels: Its labels.
        pool: Where explicit subnets come from when Docker's own address pools are used up.

    Raises:
        EngineError: The daemon refused, or the pool is used up too.
    """
    try:
        return engine.create_network(name, labels=labels)
    except EngineError as error:
        if not _says(error, _USED_UP):
            raise
    taken = [*host_routes(), *map(ipaddress.IPv4Network, _ipv4(engine.subnets()))]
    for subnet in itertools.islice(free_subnets(pool, taken=taken), _ATTEMPTS):
        try:
            return engine.create_network(name, labels=labels, subnet=str(subnet))
        except EngineError as error:
            if not _says(error, _OVERLAP):
                raise
    raise EngineError(
        f"No free subnet for network {name}: Docker's address pools are used up, and so is {pool}. "
        "Remove networks (`python -m orchestrator reap`, `docker network prune`), or set "
        "ORCHESTRATOR_SUBNETS to a larger range."
    )


def _says(error: EngineError, phrases: tuple[str, ...]) -> bool:
    message = str(error).lower()
    return any(phrase in message for phrase in phrases)


def _ipv4(subnets: Sequence[str]) -> list[str]:
    return [subnet for subnet in subnets if ":" not in subnet]
