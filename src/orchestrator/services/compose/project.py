"""What a Compose file means as a whole: its services, what they wait for, how one reaches them."""

from __future__ import annotations

import ipaddress
import os
import re
from collections import ChainMap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.errors import DeclarationError, did_you_mean
from orchestrator.services.compose.file import Entry, Source, read_file
from orchestrator.services.hooks import Extras, Network
from orchestrator.variables import VariableError, read_variables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

STARTED, HEALTHY, COMPLETED = CONDITIONS = (
    "service_started",
    "service_healthy",
    "service_completed_successfully",
)
_TOP: Final = ("services", "volumes", "networks", "secrets", "configs")
_OF_NETWORK: Final = ("name", "driver", "internal", "attachable", "labels", "external")
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_HOST: Final = re.compile(r"(?!-)[A-Za-z0-9.-]{1,63}(?<![-.])")
_CONTAINER: Final = r"(?P<port>[0-9]+)(?:-(?P<last>[0-9]+))?(?:/(?P<protocol>tcp|udp|sctp))?"
_PORT: Final = re.compile(rf"(?:(?:.*:)?(?P<host>[0-9]*(?:-[0-9]+)?):)?{_CONTAINER}")
_MOST_PORTS: Final = 100
_DEFAULT: Final = "default"


@dataclass(frozen=True)
class Project:
    """What of a Compose file is meant: the services to run, and what is declared beside them."""

    services: Mapping[str, Entry]
    top: Entry

    def declared(self, kind: str, name: Entry) -> Entry:
        """The declaration of a volume, network, secret or config that a service names."""
        entry = self.top.part(kind).mapping().get(name.text())
        if entry is None:
            hint = "; a path begins with ./" if kind == "volumes" and "/" in name.text() else ""
            raise name.error(f"names {name.text()!r}, which {kind!r} does not declare{hint}")
        external = entry.get("external")
        if external and (isinstance(external.value, dict) or external.flag()):
            raise external.error("is not supported: a test begins with what its file says")
        return entry


def read_project(file: Path, wanted: Sequence[str] | None) -> Project:
    """Read a Compose file; without `wanted`, all services are meant that have no profile."""
    dotenv = file.parent / ".env"
    below = read_env_file(dotenv, os.environ) if dotenv.is_file() else {}
    name = {"COMPOSE_PROJECT_NAME": file.resolve().parent.name}
    top = read_file(Source(file, ChainMap(dict(os.environ), dict(below), name)))
    if named := top.only(*_TOP, "name", "version").get("name"):
        name["COMPOSE_PROJECT_NAME"] = named.text()
    services = top.must("services").mapping()
    for service in services.values():
        service.mapping()
    return Project({it: services[it] for it in _selected(top, wanted)}, top)


@dataclass(frozen=True)
class Dependency:
    """What a service waits for, and where that is said.

    One that is not required counts if it is in the file and has no profile.
    """

    entry: Entry
    condition: str = STARTED
    required: bool = True


def dependencies(service: Entry) -> Mapping[str, Dependency]:
    """What a service waits for, by name."""
    found = {it.text().partition(":")[0]: Dependency(it) for it in service.entries_of("links")}
    for name, entry in service.part("depends_on").by_name().items():
        entry.only("condition", "restart", "required")
        condition = entry.read("condition", Entry.text, STARTED)
        if condition not in CONDITIONS:
            expected = " or ".join(CONDITIONS)
            raise entry.must("condition").error(f"is {condition!r}; expected {expected}")
        found[name] = Dependency(entry, condition, entry.flag_of("required", usual=True))
    return found


def _selected(top: Entry, wanted: Sequence[str] | None) -> Sequence[str]:
    """The wanted services and all they depend on, in the order of the file."""
    services = top.must("services")
    known = services.mapping()
    usual = [name for name, it in known.items() if not it.entries_of("profiles")]
    for name in wanted or ():
        if name not in known:
            hint = did_you_mean(name, known, otherwise="it has")
            raise services.error(f"has no service {name!r}{hint}")
    found = list(usual if wanted is None else wanted)
    for name in found:  # which grows meanwhile
        for other, needed in dependencies(known[name]).items():
            if needed.required and other not in known:
                raise needed.entry.error(f"names the service {other!r}, which is not in the file")
            if other not in found and (needed.required or other in usual):
                found.append(other)
    return [name for name in known if name in found]


def read_env_file(
    file: Path, variables: Mapping[str, str], *, raw: bool = False
) -> Mapping[str, str]:
    """The variables of an ``.env`` or an ``env_file``."""
    try:
        return read_variables(file.read_text(encoding="utf-8"), variables, raw=raw)
    except (OSError, UnicodeDecodeError) as error:
        raise DeclarationError(f"{file} cannot be read: {error}") from error
    except VariableError as error:
        raise DeclarationError(f"{file}:{error.line}: {error}") from error


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
    return f"{entry.must('target').whole()}/{entry.read('protocol', Entry.text, 'tcp')}"


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
    for service in project.services.values():
        for entry in service.entries_of("links"):
            name, _, alias = entry.text().partition(":")
            if alias:
                found.setdefault(name, []).append(_alias(entry.replaced(alias)))
    return found


def networks(service: Entry, project: Project, *, more: Sequence[str]) -> Extras:
    """The networks it stands on: the file's default one is that of the test class."""
    names = [*more, *service.read("container_name", lambda it: [_alias(it)], [])]
    found = service.part("networks").by_name()
    if not found:
        return Extras(aliases=names)
    networks = []
    aliases: Sequence[str] = ()
    for key, entry in found.items():
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
    if key == _DEFAULT and key not in project.top.part("networks").mapping():
        return False
    declared = project.declared("networks", entry.replaced(key)).only(*_OF_NETWORK)
    if declared.read("driver", Entry.text, "bridge") != "bridge":
        raise declared.must("driver").error("other than bridge is not supported")
    internal = declared.flag_of("internal")
    if internal and key == _DEFAULT:
        raise declared.must("internal").error(
            "is not supported for the default network, which is the test class's"
        )
    return internal
