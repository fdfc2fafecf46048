"""A network for one class, and the ports of its services on this machine."""

from __future__ import annotations

import ipaddress
import itertools
import random
import socket
from typing import TYPE_CHECKING, Final

from orchestrator.engine.endpoint import routes
from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from orchestrator.engine.docker import Engine

PREFIX: Final = 27  # 29 containers beside the gateway; a class has a handful
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
    of_daemon = [ipaddress.IPv4Network(subnet) for subnet in engine.subnets() if ":" not in subnet]
    taken = [*(route.destination for route in routes() if not route.is_default), *of_daemon]
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


def free_subnets(
    pool: ipaddress.IPv4Network, *, taken: Iterable[ipaddress.IPv4Network]
) -> Iterator[ipaddress.IPv4Network]:
    """Subnets of the pool that overlap nothing taken, from a random place onwards.

    Many processes choose at once: a random start makes them meet seldom, and whoever meets
    another takes the next one.
    """
    busy = [network for network in taken if network.overlaps(pool)]
    step = 1 << (32 - PREFIX)
    count = pool.num_addresses // step
    first = random.randrange(count)  # noqa: S311 - spreads load, protects nothing
    for number in range(count):
        address = int(pool.network_address) + (first + number) % count * step
        subnet = ipaddress.IPv4Network((address, PREFIX))
        if not any(subnet.overlaps(network) for network in busy):
            yield subnet


def free_port(bind_address: str) -> int:
    """A port that was free on an address of this machine a moment ago.

    It is chosen before the container is created, so that it never changes. Somebody may take it
    before the daemon publishes it: creating the container is retried then.
    """
    family = socket.AF_INET6 if ":" in bind_address else socket.AF_INET
    with socket.socket(family) as listener:
        try:
            listener.bind((bind_address, 0))
        except OSError:  # the address is the daemon's machine's, not ours: any port is a guess
            listener.bind(("", 0))
        port: int = listener.getsockname()[1]
        return port
