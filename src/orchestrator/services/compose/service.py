"""One service of a Compose file, as a `Container`; what cannot be kept is refused."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import DeclarationError
from orchestrator.probes.checks import NotReadyError, Tcp
from orchestrator.probes.waiting import bounded
from orchestrator.services.compose.file import (
    COMPLETED,
    HEALTHY,
    Entry,
    dependencies,
    read_env_file,
)
from orchestrator.services.compose.volumes import FileSystem
from orchestrator.services.container import Build, Container
from orchestrator.services.hooks import CAPABILITIES, Extras, Network, name_declaration
from orchestrator.services.options import private

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from orchestrator.engine.api import ExecResult
    from orchestrator.probes import Probe
    from orchestrator.probes.checks import Target
    from orchestrator.services.compose.file import Project
    from orchestrator.services.options import Scope

_READ: Final = (
    *("image", "build", "command", "entrypoint", "environment", "env_file", "ports", "depends_on"),
    *("healthcheck", "user", "volumes", "tmpfs", "shm_size", "mem_limit", "cpus", "pids_limit"),
    *("deploy", "cap_add", "cap_drop", "networks", "secrets", "configs", "links"),
    *("container_name", "privileged", "scale", "security_opt"),
)
# What makes no difference to a test: images are locked, nothing is restarted, servers are killed.
_WITHOUT_EFFECT: Final = (
    *("annotations", "attach", "cpu_shares", "develop", "expose", "labels", "label_file"),
    *("logging", "mem_reservation", "oom_score_adj", "profiles", "pull_policy", "restart"),
    *("stop_grace_period", "stop_signal"),
)
_OF_NETWORK: Final = ("name", "driver", "internal", "attachable", "labels", "external")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_HOST: Final = re.compile(r"(?!-)[A-Za-z0-9.-]{1,63}(?<![-.])")
_CONTAINER: Final = r"(?P<port>[0-9]+)(?:-(?P<last>[0-9]+))?(?:/(?P<protocol>tcp|udp|sctp))?"
_PORT: Final = re.compile(rf"(?:(?:.*:)?(?P<host>[0-9]*(?:-[0-9]+)?):)?{_CONTAINER}")
_MOST_PORTS: Final = 100
_OUR_SHELL: Final = ("/bin/sh", "-c")
_USUAL_TIMEOUT: Final = 30.0  # seconds that Docker gives a healthcheck
_DEFAULT: Final = "default"


class ComposeService(Container):
    """A service of a Compose file."""

    _extras: Extras = private(Extras())
    _tmpfs: Mapping[str, str] | None = private(None)
    _secrets: Sequence[str] = private(())

    def server_extras(self) -> Extras:
        """What the file says beside a container's own options."""
        return self._extras

    def server_tmpfs(self) -> Mapping[str, str]:
        """File systems in memory, with the file's mount options."""
        return self._tmpfs or {}

    def secrets(self) -> Sequence[str]:
        """What the file declares as secrets."""
        return [*super().secrets(), *filter(None, self._secrets)]


@dataclass(frozen=True)
class _Healthcheck:
    """Docker's healthcheck, of the file or else of the image; tried at once and again, as a probe.

    Where neither has one, that is an error for `needed`, the entry that asks for it; without such
    an entry another probe counts.
    """

    argv: Sequence[str] | None
    timeout: float
    needed: Entry | None
    otherwise: Probe | None

    def check(self, target: Target) -> None:
        """Run the command once."""
        state = target.state()
        argv = self.argv or _argv(state.check if state else ())
        results: list[ExecResult] = []
        if argv is not None:
            command = argv
            bounded(lambda: results.append(target.exec(command)), timeout=self.timeout)
            if (result := results[0]).exit_code != 0:
                raise NotReadyError(f"exit code {result.exit_code}: {result.output.strip()[-200:]}")
        elif self.needed:
            raise self.needed.error(
                f"waits until {target.alias!r} is healthy, but neither the file nor its image has "
                "a healthcheck for it"
            )
        elif self.otherwise:
            self.otherwise.check(target)

    def __str__(self) -> str:
        return "Healthcheck()"


@dataclass(frozen=True)
class _Completed:
    """Ready when the service has ended well, as one does that prepares something for others."""

    def check(self, target: Target) -> None:
        """Look at the container once."""
        state = target.state()
        if state is None or not state.ended or state.exit_code != 0:
            raise NotReadyError("it has not ended yet")


def to_containers(
    project: Project,
    *,
    scope: Scope,
    startup_timeout: float,
    allow: Sequence[str | Path] = (),
) -> Mapping[str, Container]:
    """The declarations of a file's services, by name.

    Raises:
        DeclarationError: One asks for what is not supported; the message says what, and where.
    """
    links = _links(project)
    found: dict[str, Container] = {}
    shared: set[str] = set()
    for name, service in project.services.items():
        if not _NAME.fullmatch(name):
            raise service.error("cannot be a host name")
        service.only(*_READ, *_RUN_OPTIONS, *_WITHOUT_EFFECT)
        _check_rights(service)
        files = FileSystem(name, service, project, allow=allow)
        extras = replace(
            _networks(service, project, more=links.get(name, [])),
            **{key: read(it) for key, read in _RUN_OPTIONS.items() if (it := service.get(key))},
            volumes=files.volumes,
            copies=files.copies,
        )
        ports = _ports(service)
        keys = {volume.key for volume in files.volumes}
        if scope == "process" and (extras.networks or keys & shared):
            raise service.error("shares a network or a volume, which scope='process' cannot have")
        shared |= keys
        try:
            container = ComposeService(
                **_image(service, project),
                **_limits(service),
                command=_words(service, "command"),
                entrypoint=_words(service, "entrypoint"),
                env=_environment(service),
                user=user.text() if (user := service.get("user")) else None,
                capabilities=_capabilities(service),
                ports=ports,
                probe=_probe(name, service, project, ports),
                mounts=files.mounts,
                allow=allow,
                depends_on=[it for it in dependencies(service) if it in project.services],
                scope=scope,
                startup_timeout=startup_timeout,
            )
        except DeclarationError as error:
            raise (
                error
                if str(error).startswith(f"{project.file}")
                else service.error(f"cannot run: {error}")
            ) from None
        own = {"_extras": extras, "_tmpfs": files.tmpfs, "_secrets": files.secrets}
        found[name] = container.copy_with(**own)
        name_declaration(found[name], f"{project.file}: service {name!r}")
    return found


def _check_rights(service: Entry) -> None:
    privileged = service.get("privileged")
    if privileged and privileged.flag():
        raise privileged.error("is not supported; name what it needs in cap_add")
    for entry in service.entries_of("security_opt"):
        if entry.text() not in ("no-new-privileges", "no-new-privileges:true"):
            raise entry.error(f"is {entry.text()!r}, which is not supported")


def _image(service: Entry, project: Project) -> dict[str, Any]:
    image, build = service.get("image"), service.get("build")
    if build is None and image is None:
        raise service.error("needs either an image or a build")
    if build is None and image is not None:
        name = image.text()
        # What another service builds under this name.
        for other in project.top.must("services").mapping().values():
            tag = other.get("image")
            if other.get("build") and tag and tag.text() == name:
                build = other.get("build")
    return {"build": _build(build)} if build else {"image": image.text() if image else None}


def _build(entry: Entry) -> Build:
    if not isinstance(entry.value, dict):
        return Build(folder=entry.file())
    ignored = ("cache_from", "cache_to", "labels", "no_cache", "pull", "tags")
    entry.only("context", "dockerfile", "args", "target", *ignored)
    context, file, target = map(entry.get, ("context", "dockerfile", "target"))
    args = entry.get("args")
    if context and re.match(r"\w+://|git@", context.text()):
        raise context.error(f"is {context.text()!r}; expected a folder of this machine")
    return Build(
        folder=context.file() if context else entry.replaced(".").file(),
        dockerfile=file.text() if file else "Dockerfile",
        args=_resolved(args) if args else {},
        target=target.text() if target else None,
    )


def _words(service: Entry, key: str) -> Sequence[str] | None:
    entry = service.get(key)
    if entry is None:
        return None
    words = entry.words()
    if words or key == "entrypoint":
        return words or [""]  # which is how the engine is told that there is none
    if service.get("entrypoint") is None:
        raise entry.error("is empty, which needs an 'entrypoint' of the service's own beside it")
    return []


def _resolved(entry: Entry) -> Mapping[str, str]:
    """Names and values; a name alone takes its value from the process, or is left out."""
    found = {}
    for name, value in entry.pairs().items():
        if value is not None:
            found[name] = value.text()
        elif name in entry.source.variables:
            found[name] = entry.source.variables[name]
    return found


def _environment(service: Entry) -> Mapping[str, str]:
    values: dict[str, str] = {}
    for entry in service.entries_of("env_file"):
        path, raw = entry, False
        if isinstance(entry.value, dict):
            path = entry.only("path", "required", "format").must("path")
            required, kind = entry.get("required"), entry.get("format")
            if kind and kind.text() != "raw":
                raise kind.error(f"is {kind.text()!r}; expected 'raw', or none")
            raw = kind is not None
            if required and not required.flag() and not path.file().is_file():
                continue
        known = {**values, **entry.source.variables}
        values.update(read_env_file(path.file(), known, raw=raw))
    own = service.get("environment")
    if own:
        for name in own.pairs():
            values.pop(name, None)  # also where it has no value here
        values.update(_resolved(own))
    return values


def _limits(service: Entry) -> dict[str, Any]:
    deployed = _deployed(service)
    found: dict[str, Any] = {}
    for option, key, name, read in (
        ("memory", "mem_limit", "memory", Entry.size),
        ("cpus", "cpus", "cpus", Entry.number),
        ("pids", "pids_limit", "pids", lambda it: max(0, it.whole(least=-1))),
    ):
        old, new = service.get(key), deployed.get(name) if deployed else None
        if old and new and read(old) != read(new):
            raise old.error(f"and 'deploy.resources.limits.{name}' are not the same")
        if entry := old or new:
            found[option] = read(entry) or None  # 0 is no limit
    if shared := service.get("shm_size"):
        found["shm_size"] = shared.size()
    return found


def _deployed(service: Entry) -> Entry | None:
    """The limits of ``deploy``."""
    deploy = service.get("deploy")
    replicas = deploy.get("replicas") if deploy else None
    for count in (replicas, service.get("scale")):
        if count and count.whole() != 1:
            raise count.error("other than 1 is not supported")
    if not deploy:
        return None
    policies = ("restart_policy", "update_config", "rollback_config")
    deploy.only("resources", "replicas", "mode", "labels", "endpoint_mode", *policies)
    resources = deploy.get("resources")
    if not resources:
        return None
    if reserved := resources.only("limits", "reservations").get("reservations"):
        reserved.only("cpus", "memory")
    limits = resources.get("limits")
    return limits.only("memory", "cpus", "pids") if limits else None


def _texts(entry: Entry) -> Sequence[str]:
    return [it.text() for it in entry.entries()]


def _absolute(entry: Entry) -> str:
    if not entry.text().startswith("/"):
        raise entry.error(f"is {entry.text()!r}; expected an absolute path")
    return entry.text()


def _host_name(entry: Entry) -> str:
    if not _HOST.fullmatch(entry.text()):
        raise entry.error(f"is {entry.text()!r}, which cannot be a host name")
    return entry.text()


def _alias(entry: Entry) -> str:
    if not _NAME.fullmatch(entry.text()):
        raise entry.error(f"is {entry.text()!r}, which cannot be a name on a network")
    return entry.text()


def _address(entry: Entry) -> str:
    text = entry.text().strip("[]")
    try:
        ipaddress.ip_address("::" if text == "host-gateway" else text)
    except ValueError:
        raise entry.error(f"is {text!r}; expected an IP address, or host-gateway") from None
    return text


def _values(entry: Entry, *separators: str) -> Mapping[str, str]:
    found = {}
    for name, value in entry.pairs(*separators).items():
        if value is None:
            raise entry.error(f"has no value for {name!r}")
        found[name] = value.text()
    return found


def _hosts(entry: Entry) -> Mapping[str, str]:
    return {name: _address(entry.replaced(text)) for name, text in _values(entry, "=", ":").items()}


def _ulimits(entry: Entry) -> Mapping[str, tuple[int, int]]:
    found = {}
    for name, limit in entry.mapping().items():
        soft = hard = limit
        if isinstance(limit.value, dict):
            soft, hard = map(limit.only("soft", "hard").must, ("soft", "hard"))
        found[name] = soft.whole(least=-1), hard.whole(least=-1)
    return found


_RUN_OPTIONS: Final[Mapping[str, Callable[[Entry], Any]]] = {
    "working_dir": _absolute,
    "platform": Entry.text,
    **dict.fromkeys(("hostname", "domainname"), _host_name),
    **dict.fromkeys(("init", "tty", "stdin_open", "read_only"), Entry.flag),
    **dict.fromkeys(("group_add", "dns_search", "dns_opt"), _texts),
    "dns": lambda entry: [_address(it) for it in entry.entries()],
    "sysctls": _values,
    "extra_hosts": _hosts,
    "ulimits": _ulimits,
}


def _ports(service: Entry) -> Sequence[str]:
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


def _probe(name: str, service: Entry, project: Project, ports: Sequence[str]) -> Probe | None:
    """What tells that it is as its dependents want it: healthy, or at its end."""
    needed = {
        dependency.condition: dependency.entry
        for other in project.services.values()
        for its, dependency in dependencies(other).items()
        if its == name
    }
    if COMPLETED in needed:
        return _Completed()
    dependent = needed.get(HEALTHY)
    check = service.get("healthcheck")
    argv: Sequence[str] | None = None
    timeout = _USUAL_TIMEOUT
    if check:
        durations = ("interval", "timeout", "start_period", "start_interval")
        check.only("test", "disable", "retries", *durations)
        seconds = {key: it.seconds() for key in durations if (it := check.get(key))}
        timeout = seconds.get("timeout") or timeout
        if retries := check.get("retries"):
            retries.whole()
        test, disable = check.get("test"), check.get("disable")
        argv = _test(test) if test else None
        if (disable and disable.flag()) or (test and argv is None):
            if dependent:
                raise dependent.error(f"waits until {name!r} is healthy, which has no healthcheck")
            return None
    if not check and not dependent:
        return None
    otherwise = Tcp() if ports and ports[0].endswith("/tcp") else None
    return _Healthcheck(argv, timeout, dependent, otherwise)


def _test(entry: Entry) -> Sequence[str] | None:
    if not isinstance(entry.value, list):
        return [*_OUR_SHELL, entry.text()]
    words = [it.text() for it in entry.value]
    if words == ["NONE"]:
        return None
    argv = _argv(words)
    if argv is None:
        raise entry.error(f"is {words!r}; expected CMD or CMD-SHELL and a command, or NONE")
    return argv


def _argv(test: Sequence[str]) -> Sequence[str] | None:
    """What Docker runs for a healthcheck."""
    kind, *words = test or [""]
    if kind == "CMD-SHELL" and len(words) == 1:
        return [*_OUR_SHELL, *words]
    return words if kind == "CMD" and words else None


def _capabilities(service: Entry) -> Sequence[str] | None:
    more, less = (
        [entry.text().upper().removeprefix("CAP_") for entry in service.entries_of(key)]
        for key in ("cap_add", "cap_drop")
    )
    if "ALL" in more:
        raise service.must("cap_add").error("has ALL; name the capabilities that it needs")
    if not more and not less:
        return None
    kept = [] if "ALL" in less else [name for name in CAPABILITIES if name not in less]
    return [*kept, *(name for name in more if name not in kept)]


def _links(project: Project) -> Mapping[str, Sequence[str]]:
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


def _networks(service: Entry, project: Project, *, more: Sequence[str]) -> Extras:
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
