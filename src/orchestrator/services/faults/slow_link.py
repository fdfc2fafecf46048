"""A slow, lossy link: what `Service.slowed` runs beside a service, in its network namespace.

``python3 slow_link.py LATENCY JITTER LOSS``. Nothing of this package is imported here: it is one
file that runs on any Python 3.10 or later, on Linux.

Everything that the service sends is routed into a TUN device, waits here, and goes out again
through a raw socket, whose mark takes it past that route. So it works on every kernel, also where
``sch_netem`` is missing, and on connections that are open already. When this process ends, in
whatever way, the device goes, its routes go with it, and packets take the old way.
"""

from __future__ import annotations

import errno
import fcntl
import heapq
import itertools
import os
import random
import select
import socket
import struct
import sys
import time
from pathlib import Path

DEVICE = b"slow0"
MARK = 0x510
TABLE = 510

# linux/if_tun.h, linux/sockios.h, linux/if.h
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x1, 0x1000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCGIFADDR = 0x8913, 0x8914, 0x8915
_IFF_UP = 0x1

# linux/rtnetlink.h, linux/fib_rules.h, linux/if_link.h, linux/ip.h
_RTM_SETLINK, _RTM_NEWROUTE, _RTM_NEWRULE = 19, 24, 32
_IFLA_AF_SPEC, _IFLA_INET_CONF, _IPV4_DEVCONF_RP_FILTER = 26, 1, 8
_REQUEST_ACK_CREATE_EXCLUSIVE = 0x1 | 0x4 | 0x400 | 0x200
_RTA_DST, _RTA_OIF, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 7, 15
_FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE = 6, 10, 15
_MAIN_TABLE = 254
_STATIC, _UNIVERSE, _UNICAST, _TO_TABLE = 4, 0, 1, 1
_EXISTS = 17

_LARGEST = 65536


def main() -> None:
    """Slow the link down until this process is killed."""
    latency, jitter, loss = map(float, sys.argv[1:4])
    _accept_detours()
    device = _open_device()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        _route_everything_through(socket.if_nametoindex(DEVICE.decode()))
        print("slow", flush=True)  # noqa: T201 - who started this waits for the word
        _relay(device, link, latency=latency, jitter=jitter, loss=loss)


def _relay(device: int, link: socket.socket, *, latency: float, jitter: float, loss: float) -> None:
    """Hold back each packet, in order, and drop some."""
    waiting: list[tuple[float, int, bytes]] = []
    numbers = itertools.count()
    last = 0.0
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select([device], [], [], pause)
        now = time.monotonic()
        if readable:
            packet = os.read(device, _LARGEST)
            if packet[0] >> 4 == 4 and random.random() >= loss:  # noqa: S311, PLR2004 - IPv4
                last = max(last, now + max(0.0, latency + random.uniform(-jitter, jitter)))  # noqa: S311
                heapq.heappush(waiting, (last, next(numbers), packet))
        while waiting and waiting[0][0] <= now:
            packet = heapq.heappop(waiting)[2]
            try:
                link.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))
            except OSError:
                continue  # there is no way now: the packet is lost, as on any link


def _accept_detours() -> None:
    """Where packets are dropped unless their way back is the same (rp_filter=1), any way will do.

    The larger of a device's value and that of all counts. /proc is read-only here; netlink is not.
    """
    files = Path("/proc/sys/net/ipv4/conf").glob("*/rp_filter")
    strict = [file.parent.name for file in files if file.read_text() == "1\n"]
    loose = _attribute(_IPV4_DEVCONF_RP_FILTER, struct.pack("I", 2))
    spec = _attribute(socket.AF_INET, _attribute(_IFLA_INET_CONF, loose))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        for index, name in socket.if_nameindex():
            if name in strict or "all" in strict:
                body = struct.pack("BxHiII", 0, 0, index, 0, 0)
                _ask(netlink, _RTM_SETLINK, body, {_IFLA_AF_SPEC: spec})


def _open_device() -> int:
    device = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", DEVICE, _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        if error.errno == errno.EBUSY:
            sys.exit("it is slowed already; one slowed() has latency=, jitter= and loss=")
        raise
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        found = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16s24x", DEVICE))
        (flags,) = struct.unpack_from("H", found, 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", DEVICE, flags | _IFF_UP))
    return device


def _route_everything_through(device: int) -> None:
    """Copy the routes into a table of their own, through the device; what is marked uses the old.

    Each route keeps its source address, so that also new connections of the service come from it.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        for destination, bits, source in _routes():
            # family, dst_len, src_len, tos, table, protocol, scope, type, flags
            body = struct.pack("8BI", 2, bits, 0, 0, 0, _STATIC, _UNIVERSE, _UNICAST, 0)
            attributes = {
                **({_RTA_DST: destination} if bits else {}),
                _RTA_OIF: struct.pack("I", device),
                _RTA_PREFSRC: source,
                _RTA_TABLE: struct.pack("I", TABLE),
            }
            _ask(netlink, _RTM_NEWROUTE, body, attributes)
        # family, dst_len, src_len, tos, table, two reserved, action, flags
        body = struct.pack("8BI", 2, 0, 0, 0, 0, 0, 0, _TO_TABLE, 0)
        for priority, mark, table in ((1, MARK, _MAIN_TABLE), (2, None, TABLE)):
            attributes = {
                _FRA_PRIORITY: struct.pack("I", priority),
                **({_FRA_FWMARK: struct.pack("I", mark)} if mark else {}),
                _FRA_TABLE: struct.pack("I", table),
            }
            _ask(netlink, _RTM_NEWRULE, body, attributes)


def _routes() -> list[tuple[bytes, int, bytes]]:
    """Destination, bits of its mask, and our address there, of each route of the main table."""
    found = []
    lines = Path("/proc/net/route").read_text().splitlines()[1:]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for name, destination, _, _, _, _, _, mask, *_ in map(str.split, lines):
            request = struct.pack("16s24x", name.encode())
            address = fcntl.ioctl(control, _SIOCGIFADDR, request)[20:24]
            bits = int(mask, 16).bit_count()
            found.append((struct.pack("=I", int(destination, 16)), bits, address))
    return found


def _ask(netlink: socket.socket, kind: int, body: bytes, attributes: dict[int, bytes]) -> None:
    body += b"".join(_attribute(name, value) for name, value in attributes.items())
    head = struct.pack("IHHII", 16 + len(body), kind, _REQUEST_ACK_CREATE_EXCLUSIVE, 1, 0)
    netlink.send(head + body)
    (error,) = struct.unpack_from("i", netlink.recv(_LARGEST), 16)
    if error and -error != _EXISTS:  # rules of an earlier call are still there, and do no harm
        raise OSError(-error, os.strerror(-error))


def _attribute(name: int, value: bytes) -> bytes:
    return struct.pack("HH", 4 + len(value), name) + value + bytes(-len(value) % 4)


if __name__ == "__main__":
    main()
