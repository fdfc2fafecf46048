"""Where the daemon is, and the address at which the ports it publishes are reached from here.

The daemon: ``DOCKER_HOST``, else the current docker context, else the local socket. The ports: on
a local daemon's loopback, on a remote daemon's machine, or beside a daemon whose container this
process runs in.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import os
import re
import shlex
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from urllib.parse import SplitResult

LOCAL: Final = "unix:///var/run/docker.sock"
LOOPBACK: Final = "127.0.0.1"
EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - a remote daemon's ports must be reached from here
_PLAIN_PORT, _TLS_PORT = 2375, 2376
_SSH_TIMEOUT: Final = 10.0  # seconds
_SSH_OPTIONS: Final = ("-o", "ConnectTimeout=30", "-T")  # as docker has them
_CONFIG: Final = "config.json"
_ROUTES: Final = Path("/proc/net/route")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """The address of a daemon.

    Attributes:
        url: ``unix:///path``, ``tcp://host:port`` or ``ssh://user@host``.
        tls: The folder with ca.pem, cert.pem and key.pem, as far as there are such; None for a
            plain connection.
        verify: Whether the daemon's certificate is checked; only of meaning with ``tls``.
        origin: Who says so: a variable, or a docker context and what chose it.
        proxy: The variable that names a web proxy on the way, and the proxy.
    """

    url: str
    tls: Path | None = None
    verify: bool = True
    origin: str = field(default="", compare=False)
    proxy: tuple[str, str] | None = None

    @property
    def socket(self) -> str | None:
        """The path of the unix socket, or None for a daemon reached in another way."""
        return urlsplit(self.url).path if self.url.startswith("unix://") else None

    @property
    def hostname(self) -> str | None:
        """The name of the daemon's machine, or None when it is this one."""
        return None if self.socket else urlsplit(self.url).hostname

    @property
    def secure(self) -> bool:
        """Whether TLS is spoken."""
        return self.tls is not None or self.url.startswith("https:")

    @property
    def way(self) -> list[str]:
        """How raw HTTP gets there, as `sessions.bare.http_reaper.Dialer` reads it."""
        url = urlsplit(self.url)
        if self.socket:
            return ["unix", os.path.abspath(self.socket)]  # noqa: PTH100  # links stay
        if url.scheme == "ssh":
            path = url.path.rstrip("/")
            there = f" --host {shlex.quote(f'unix://{path}')}" if path else ""
            return ["ssh", *_SSH_OPTIONS, *_ssh_target(url), f"docker{there} system dial-stdio"]
        where = [url.hostname or "localhost", str(url.port)]
        by_way_of = ["proxy", self.proxy[0]] if self.proxy else []  # no process list has its value
        if not self.secure:
            return [*by_way_of, "tcp", *where]
        files = ["", "", ""]
        if self.tls is not None:
            paths = [(self.tls / f"{name}.pem").absolute() for name in ("ca", "cert", "key")]
            files = [str(path) if path.exists() else "" for path in paths]
        return [*by_way_of, "tls", *where, *files, "1" if self.verify else ""]


def find_endpoint(environ: Mapping[str, str] | None = None) -> Endpoint:
    """Find the daemon the way the docker command does; `EngineError` if that cannot be read."""
    environ = os.environ if environ is None else environ
    if url := environ.get("DOCKER_HOST", "").strip():
        verify = bool(environ.get("DOCKER_TLS_VERIFY"))
        folder = Path(environ.get("DOCKER_CERT_PATH") or _config(environ))
        tls = folder if verify or environ.get("DOCKER_TLS") else None
        return _endpoint(url, environ, tls=tls, verify=verify, origin="DOCKER_HOST")
    chosen_by = "DOCKER_CONTEXT" if environ.get("DOCKER_CONTEXT") else _config(environ) / _CONFIG
    name = environ.get("DOCKER_CONTEXT") or _current_context(environ)
    if name and name != "default":
        return _from_context(name, environ, origin=f"docker context {name!r}, of {chosen_by}")
    return Endpoint(url=LOCAL)


def _endpoint(
    url: str, environ: Mapping[str, str], *, tls: Path | None, verify: bool, origin: str
) -> Endpoint:
    url = _checked(url, origin, secure=tls is not None)
    if url.startswith(("unix:", "ssh:")):
        tls = None
    proxy = _proxy(url, environ, secure=tls is not None)
    return Endpoint(url=url, tls=tls, verify=verify or tls is None, origin=origin, proxy=proxy)


def _checked(url: str, source: str, *, secure: bool) -> str:
    """An address as docker understands it: in full, with scheme, host and port."""
    given, scheme, rest = url, *url.partition("://")[::2]
    if "://" not in url:
        scheme, rest = ("unix", url) if url.startswith("/") else ("tcp", url)
    try:
        if scheme == "unix":
            return f"unix://{rest}" if rest else LOCAL
        parts = urlsplit(f"{scheme}://{rest}")
        if scheme == "ssh" and parts.hostname and not (parts.password or parts.query):
            return f"ssh://{rest}"
        bare = parts.path in ("", "/") and not parts.username and not parts.query
        if scheme in ("tcp", "http", "https") and bare:
            host, port = parts.hostname or "localhost", parts.port
            if port is None:
                port = _TLS_PORT if secure or scheme == "https" else _PLAIN_PORT
            if port and re.fullmatch(r"[\w.:%-]+", host):
                return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    except ValueError:  # an IPv6 address without brackets, or a port that is no number
        pass
    if scheme == "npipe":
        raise EngineError(
            f"{source} is {given!r}: a named pipe is for programs of Windows. In WSL 2, which is "
            "Linux, Docker Desktop answers at unix:///var/run/docker.sock, if its settings "
            "(Resources, WSL integration) turn that distribution on"
        )
    raise EngineError(
        f"{source} is {given!r}; expected an address such as unix:///var/run/docker.sock, "
        "tcp://host:2376, tcp://[::1]:2376 or ssh://user@host"
    )


def _config(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("DOCKER_CONFIG") or Path(environ.get("HOME", "/")) / ".docker")


def _current_context(environ: Mapping[str, str]) -> str | None:
    try:
        text = (_config(environ) / _CONFIG).read_text(encoding="utf-8")
        name = json.loads(text).get("currentContext")
    except (OSError, ValueError, AttributeError):
        return None  # an unreadable config.json is for the docker command to complain about
    return name if isinstance(name, str) else None


def _from_context(name: str, environ: Mapping[str, str], *, origin: str) -> Endpoint:
    """Read a docker context; its folders are named by the SHA-256 of its name."""
    key = hashlib.sha256(name.encode()).hexdigest()
    contexts = _config(environ) / "contexts"
    try:
        meta = json.loads((contexts / "meta" / key / "meta.json").read_text(encoding="utf-8"))
        docker = meta["Endpoints"]["docker"]
        url, skip = docker["Host"], docker.get("SkipTLSVerify", False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"{origin}, cannot be read; see `docker context ls`, "
            "or set DOCKER_HOST to the daemon's address"
        ) from error
    folder = contexts / "tls" / key / "docker"
    tls = folder if folder.is_dir() or skip else None
    return _endpoint(url, environ, tls=tls, verify=not skip, origin=origin)


def _proxy(url: str, environ: Mapping[str, str], *, secure: bool) -> tuple[str, str] | None:
    """The web proxy that the docker command would use, and the variable that names it.

    As Go has it: none for a host that is this machine, or that NO_PROXY names; and ALL_PROXY is
    not asked. What docker's config.json says of proxies is for containers.
    """
    parts = urlsplit(url)
    if parts.scheme in ("unix", "ssh"):
        return None
    host, port = parts.hostname or "", parts.port
    name = "HTTPS_PROXY" if secure or parts.scheme == "https" else "HTTP_PROXY"
    name = next((it for it in (name, name.lower()) if environ.get(it)), "")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if not name or host == "localhost" or (address and address.is_loopback):
        return None
    for entry in (environ.get("NO_PROXY") or environ.get("no_proxy") or "").split(","):
        rule, _, its_port = entry.strip().lower().partition(":")
        if entry.count(":") > 1:  # an IPv6 address, which has a port only behind brackets
            rule, _, its_port = entry.strip(" [").lower().partition("]:")
        rule, its_port = rule.rstrip("]"), its_port or str(port)
        if rule == "*" or (its_port == str(port) and _is_meant(host, address, rule)):
            return None
    proxy = environ[name] if "://" in environ[name] else f"http://{environ[name]}"
    if not proxy.startswith("http://"):
        raise EngineError(
            f"{name} names a web proxy that is not spoken to in HTTP ({proxy.partition(':')[0]}); "
            f"NO_PROXY={host} has the Docker daemon at {url} asked directly"
        )
    return name, proxy


def _is_meant(host: str, address: object, rule: str) -> bool:
    """Whether an entry of NO_PROXY is about a host: an address, a network, or a domain's name."""
    if address is not None:
        with contextlib.suppress(ValueError):
            return address in ipaddress.ip_network(rule, strict=False)
        return False
    domain = rule.removeprefix("*").lstrip(".")
    return bool(domain) and (
        host.endswith(f".{domain}") or (host == domain and not rule.startswith(("*", ".")))
    )


def _ssh_target(url: SplitResult) -> list[str]:
    user = ["-l", url.username] if url.username else []
    port = ["-p", str(url.port)] if url.port else []
    return [*user, *port, "--", url.hostname or ""]


@dataclass(frozen=True, kw_only=True)
class PublishedAddress:
    """The address to connect to, and that on the daemon's machine to publish ports on."""

    host: str
    bind_address: str


def published_address(
    endpoint: Endpoint, *, bridge: Callable[[], str | None], host: str | None = None
) -> PublishedAddress:
    """Decide how published ports are reached.

    A daemon on this machine publishes on the loopback only. From inside a container beside the
    daemon, its loopback is out of reach: ports are published on the address of our bridge, which
    no other machine can reach. A remote daemon has to publish on its network; so has one that
    seems to be here where the user says another ``host``: it is behind a forwarded port or socket.

    ``bridge`` asks the daemon for the gateway of its default bridge, if it comes to that.
    """
    remote = endpoint.hostname
    if remote and endpoint.url.startswith("ssh://"):
        remote = _name_in_ssh_config(endpoint) or remote
    if remote and not _is_loopback(remote):
        host = host or remote
    else:
        gateway = next((str(route.gateway) for route in routes() if route.is_default), None)
        if _in_container() and gateway and not _is_ours(bridge()):
            return PublishedAddress(host=host or gateway, bind_address=gateway)
        if not host or _is_loopback(host):
            host = host or LOOPBACK
            return PublishedAddress(host=host, bind_address=host if ":" in host else LOOPBACK)
    return PublishedAddress(host=host, bind_address="::" if ":" in host else EVERYWHERE)


def _name_in_ssh_config(endpoint: Endpoint) -> str | None:
    """The machine behind a name that may stand in the user's ssh configuration only."""
    import subprocess  # takes longer to import than all else here, and is seldom needed

    try:
        asked = subprocess.run(
            ["ssh", "-G", *_ssh_target(urlsplit(endpoint.url))],
            capture_output=True,
            text=True,
            timeout=_SSH_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    options = dict(line.partition(" ")[::2] for line in asked.stdout.splitlines())
    return options.get("hostname")


def own_address(host: str) -> str:
    """The address of this machine that another one on the way to this host sees, or OSError."""
    family, kind, *_, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)  # chooses the route, and sends nothing
        return str(probe.getsockname()[0])


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


@dataclass(frozen=True, kw_only=True)
class Route:
    """Where this network namespace sends packets for a network: 0.0.0.0 stands for no gateway."""

    destination: ipaddress.IPv4Network
    gateway: ipaddress.IPv4Address

    @property
    def is_default(self) -> bool:
        """Whether it is taken when no other route fits."""
        return self.destination.prefixlen == 0


def routes() -> list[Route]:
    """The IPv4 routes of this network namespace; none where the system is not Linux."""
    try:
        rows = [line.split() for line in _ROUTES.read_text(encoding="ascii").splitlines()[1:]]
    except OSError:
        return []
    found = []
    for row in rows:  # its addresses are little-endian hex
        destination, gateway, mask = (bytes.fromhex(row[at])[::-1] for at in (1, 2, 7))
        network = destination, int.from_bytes(mask).bit_count()
        found.append(
            Route(
                destination=ipaddress.IPv4Network(network, strict=False),
                gateway=ipaddress.IPv4Address(gateway),
            )
        )
    return found
