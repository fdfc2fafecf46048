"""How a service of a Compose file is reached: ports, host names, links and networks."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

from orchestrator.services.hooks import Extras, Network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.services.compose.file import Entry, Project

_OF_NETWORK: Final = ("name", "driver", "internal", "attachable", "labels", "external")
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_HOST: Final = re.compile(r"(?!-)[A-Za-z0-9.-]{1,63}(?<![-.])")
_CONTAINER: Final = r"(?P<port>[0-9]+)(?:-(?P<last>[0-9]+))?(?:/(?P<protocol>tcp|udp|sctp))?"
_PORT: Final = re.compile(rf"(?:(?:.*:)?(?P<host>[0-9]*(?:-[0-9]+)?):)?{_CONTAINER}")
_MOST_PORTS: Final = 100
_DEFAULT: Final = "default"


def ports(service: Entry) -> Sequence[str]:
    """The container's side; the host's is chosen freely, so that tests can run side by side."""
    found: dict[str, None] = {}
    for entry in service.entries_of("ports"):
        text = entry.text() if not isinstance(entry.value, dict) else _long_port(entry)
        match = _PORT.fullmatch(text)
        if match is None:
            raise entry.error(f"is {text!r}; expected a port such as '8080:80/tcp'")
        first, last = int(match["port"]), int(match["last"] or match["port"])
        host, _, end = (match["host"] or "").partition("-")
        room = int(end) - int(host) + 1 if end and host else 1
        if match["last"] and host and room != last - first + 1:
            raise entry.error(f"is {text!r}, whose ranges differ in length")
        if not first <= last < first + _MOST_PORTS:
            raise entry.error(f"is {text!r}; expected a range of at most {_MOST_PORTS} ports")
        protocol = match["protocol"] or "tcp"
        found |= dict.fromkeys(f"{port}/{protocol}" for port in range(first, last + 1))
    return [*found]


def _long_port(entry: Entry) -> str:
    entry.only("target", "published", "host_ip", "protocol", "app_protocol", "mode", "name")
    protocol = entry.get("protocol")
    return f"{entry.must('target').whole()}/{protocol.text() if protocol else 'tcp'}"


def host_name(entry: Entry) -> str:
    """A name that a machine may have."""
    if not _HOST.fullmatch(entry.text()):
        raise entry.error(f"is {entry.text()!r}, which cannot be a host name")
    return entry.text()


def _alias(entry: Entry) -> str:
    if not NAME.fullmatch(entry.text()):
        raise entry.error(f"is {entry.text()!r}, which cannot be a name on a network")
    return entry.text()


def address(entry: Entry) -> str:
    """An IP address, or the word for that of the engine's machine."""
    text = entry.text().strip("[]")
    try:
        ipaddress.ip_address("::" if text == "host-gateway" else text)
    except ValueError:
        raise entry.error(f"is {text!r}; expected an IP address, or host-gateway") from None
    return text


def links(project: Project) -> Mapping[str, Sequence[str]]:
    """What services are called by those that link them; here everybody may call them so."""
    found: dict[str, list[str]] = {}
    owners: dict[str, str] = {}
    for service in project.services.values():
        for entry in service.entries_of("links"):
            name, _, alias = entry.text().partition(":")
            if alias:
                _alias(entry.replaced(alias))
                if owners.setdefault(alias, name) != name:
                    raise entry.error(f"gives {alias!r} to another service than a link before")
                found.setdefault(name, []).append(alias)
    return found


def networks(service: Entry, project: Project, *, more: Sequence[str]) -> Extras:
    """The networks it stands on: the file's default one is that of the test class."""
    container_name = service.get("container_name")
    names = [*more, *([_alias(container_name)] if container_name else [])]
    wanted = service.get("networks")
    if wanted is None or not wanted.value:
        return Extras(aliases=names)
    long = isinstance(wanted.value, dict)
    found = wanted.mapping() if long else {entry.text(): entry for entry in wanted.entries()}
    networks = []
    aliases: Sequence[str] = ()
    for key, entry in found.items():
        own = names
        if long:
            entry.only("aliases", "priority")
            own = [*names, *map(_alias, entry.entries_of("aliases"))]
        internal = _internal(key, entry, project)
        if key == _DEFAULT:
            aliases = own
        else:
            networks.append(Network(key=key, internal=internal, aliases=own))
    return Extras(networks=networks, aliases=aliases, on_own=_DEFAULT in found)


def _internal(key: str, entry: Entry, project: Project) -> bool:
    """Whether a network has no way out."""
    top = project.top.mapping().get("networks")
    if key == _DEFAULT and (top is None or key not in top.mapping()):
        return False
    declared = project.declared("networks", entry.replaced(key)).only(*_OF_NETWORK)
    driver, internal = declared.get("driver"), declared.get("internal")
    if driver and driver.text() != "bridge":
        raise driver.error("other than bridge is not supported")
    if internal and internal.flag() and key == _DEFAULT:
        raise internal.error("is not supported for the default network, which is the test class's")
    return internal is not None and internal.flag()
