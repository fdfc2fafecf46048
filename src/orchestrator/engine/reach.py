"""From where published ports are reached: a local daemon, a remote one, or from a container."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.engine.endpoint import Endpoint

LOOPBACK: Final = "127.0.0.1"
EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - a remote daemon's ports must be reached from here
EVERYWHERE_6: Final = "::"
_PATIENCE: Final = 10.0  # seconds
_ROUTES: Final = Path("/proc/net/route")


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How this process reaches a published port.

    Attributes:
        host: The address to connect to.
        bind_address: The address on the daemon's machine to publish on.
    """

    host: str
    bind_address: str


def find_reach(
    endpoint: Endpoint, *, bridge: Callable[[], str | None], host: str | None = None
) -> Reach:
    """Decide how published ports are reached.

    A daemon on this machine publishes on the loopback only. From inside a container beside the
    daemon, its loopback is out of reach: ports are published on the address of our bridge, which
    no other machine can reach. A remote daemon has to publish on its network.

    Args:
        endpoint: Where the daemon is.
        bridge: Asks the daemon for the gateway address of its default bridge; called only when
            this process looks like one in a container.
        host: What the user says the address is. A daemon that seems to be here, but is reached
            elsewhere, is behind a forwarded port or socket: it is a remote one.
    """
    remote = endpoint.hostname
    if remote and endpoint.url.startswith("ssh://"):
        remote = _known_to_ssh(remote)
    if remote and not _is_loopback(remote):
        return Reach(host=host or remote, bind_address=_everywhere(host or remote))
    if _in_container() and (gateway := _gateway()) and not _is_ours(bridge()):
        return Reach(host=host or gateway, bind_address=gateway)
    if host and not _is_loopback(host):
        return Reach(host=host, bind_address=_everywhere(host))
    return Reach(host=host or LOOPBACK, bind_address=host if _is_ipv6(host) else LOOPBACK)


def _everywhere(host: str) -> str:
    return EVERYWHERE_6 if _is_ipv6(host) else EVERYWHERE


def _is_ipv6(host: str | None) -> TypeGuard[str]:
    return host is not None and ":" in host


def _known_to_ssh(name: str) -> str:
    """The machine behind a name that may stand in the user's ssh configuration only."""
    try:
        asked = subprocess.run(
            ["ssh", "-G", "--", name], capture_output=True, text=True, timeout=_PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return name
    options = dict(line.partition(" ")[::2] for line in asked.stdout.splitlines())
    return options.get("hostname", name)


def _is_ours(address: str | None) -> bool:
    """Whether an address is one of this network namespace: then so is the daemon's loopback."""
    if address is None:
        return True
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True


def _is_loopback(hostname: str) -> bool:
    """Whether every address of a host, IPv6 included, is this machine's own loopback."""
    try:
        found = socket.getaddrinfo(hostname, None, type=socket.SOCK_STREAM)
        return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)
    except (OSError, ValueError):
        return False


def _in_container() -> bool:
    return Path("/.dockerenv").exists() or os.environ.get("container") in ("podman", "docker")  # noqa: SIM112


def _gateway() -> str | None:
    """The default gateway of this network namespace (Linux keeps it as little-endian hex)."""
    try:
        rows = [line.split() for line in _ROUTES.read_text(encoding="ascii").splitlines()[1:]]
    except OSError:
        return None
    for row in rows:
        if row[1] == "00000000":
            return str(ipaddress.IPv4Address(bytes.fromhex(row[2])[::-1]))
    return None
