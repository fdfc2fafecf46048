"""Explicit subnets, for when Docker's own address pools are used up (about 30 networks)."""

from __future__ import annotations

import ipaddress
import random
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PREFIX: Final = 27  # 29 containers beside the gateway; a class has a handful
_ROUTES: Final = Path("/proc/net/route")


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


def host_routes() -> list[ipaddress.IPv4Network]:
    """What this machine already routes somewhere, without the default route; empty off Linux."""
    try:
        rows = [line.split() for line in _ROUTES.read_text(encoding="ascii").splitlines()[1:]]
    except OSError:
        return []
    networks = []
    for row in rows:
        destination, mask = (bytes.fromhex(row[column])[::-1] for column in (1, 7))
        if any(mask):
            address = (int.from_bytes(destination, "big"), int.from_bytes(mask, "big").bit_count())
            networks.append(ipaddress.IPv4Network(address, strict=False))
    return networks
