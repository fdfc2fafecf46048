"""One service of a Compose file, as a `Container`; what cannot be kept is refused."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import DeclarationError
from orchestrator.probes import Exec, NotReadyError, Tcp
from orchestrator.probes.waiting import bounded
from orchestrator.services.compose.file import Entry
from orchestrator.services.compose.project import (
    COMPLETED,
    HEALTHY,
    NAME,
    address,
    dependencies,
    host_name,
    links,
    networks,
    ports,
    read_env_file,
)
from orchestrator.services.compose.volumes import FileSystem
from orchestrator.services.container import Build, Container
from orchestrator.services.hooks import CAPABILITIES, Extras, name_declaration
from orchestrator.services.options import private

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from orchestrator.probes import Probe, Target
    from orchestrator.services.compose.project import Project
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
_OUR_SHELL: Final = ("/bin/sh", "-c")
_USUAL_TIMEOUT: Final = 30.0  # seconds that Docker gives a healthcheck


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
        if argv := self.argv or _argv(state.check if state else ()):
            bounded(functools.partial(Exec(argv).check, target), timeout=self.timeout)
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
    """The declarations of a file's services, by name."""
    linked = links(project)
    found: dict[str, Container] = {}
    shared: set[str] = set()
    for name, service in project.services.items():
        if not NAME.fullmatch(name):
            raise service.error("cannot be a host name")
        service.only(*_READ, *_RUN_OPTIONS, *_WITHOUT_EFFECT)
        _check_rights(service)
        files = FileSystem(name, service, project, allow=allow)
        extras = replace(
            networks(service, project, more=linked.get(name, [])),
            **{key: read(it) for key, read in _RUN_OPTIONS.items() if (it := service.get(key))},
            volumes=files.volumes,
            copies=files.copies,
        )
        published = ports(service)
        keys = {volume.key for volume in files.volumes}
        if scope in ("process", "run") and (extras.networks or keys & shared):
            raise service.error(f"shares a network or a volume, which {scope=} cannot have")
        shared |= keys
        try:
            container = ComposeService(
                **_image(service, project),
                **_limits(service),
                command=_words(service, "command"),
                entrypoint=_words(service, "entrypoint"),
                env=_environment(service),
                user=service.read("user", Entry.text, None),
                capabilities=_capabilities(service),
                ports=published,
                probe=_probe(name, service, project, published),
                mounts=files.mounts,
                allow=allow,
                depends_on=[it for it in dependencies(service) if it in project.services],
                scope=scope,
                startup_timeout=startup_timeout,
            )
        except DeclarationError as error:
            placed = str(error).startswith(f"{service.source.file}")
            raise (error if placed else service.error(f"cannot run: {error}")) from None
        own = {"_extras": extras, "_tmpfs": files.tmpfs, "_secrets": files.secrets}
        found[name] = container.copy_with(**own)
        name_declaration(found[name], f"{service.source.file}: service {name!r}")
    return found


def _check_rights(service: Entry) -> None:
    if service.flag_of("privileged"):
        raise service.must("privileged").error("is not supported; name what it needs in cap_add")
    for entry in service.entries_of("security_opt"):
        if entry.text() not in ("no-new-privileges", "no-new-privileges:true"):
            raise entry.error(f"is {entry.text()!r}, which is not supported")


def _image(service: Entry, project: Project) -> dict[str, Any]:
    image, build = service.get("image"), service.get("build")
    if build:
        return {"build": _build(build)}
    if image is None:
        raise service.error("needs either an image or a build")
    for other in project.top.must("services").mapping().values():
        tag, build = other.get("image"), other.get("build")
        if build and tag and tag.text() == image.text():
            return {"build": _build(build)}
    return {"image": image.text()}


def _build(entry: Entry) -> Build:
    ignored = ("cache_from", "cache_to", "labels", "no_cache", "pull", "tags")
    entry = entry.long("context").only("context", "dockerfile", "args", "target", *ignored)
    context = entry.get("context") or entry.replaced(".")
    if re.match(r"\w+://|git@", context.text()):
        raise context.error(f"is {context.text()!r}; expected a folder of this machine")
    return Build(
        folder=context.file(),
        dockerfile=entry.read("dockerfile", Entry.text, "Dockerfile"),
        args=entry.read("args", _resolved, {}),
        target=entry.read("target", Entry.text, None),
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


def _resolved(entry: Entry) -> dict[str, str]:
    """Names and values; a name alone takes its value from the process, or is left out."""
    known = entry.source.variables
    return {
        name: value.text() if value else known[name]
        for name, value in entry.pairs().items()
        if value or name in known
    }


def _environment(service: Entry) -> Mapping[str, str]:
    values: dict[str, str] = {}
    for it in service.entries_of("env_file"):
        entry = it.long("path").only("path", "required", "format")
        kind, path = entry.get("format"), entry.must("path").file()
        if kind and kind.text() != "raw":
            raise kind.error(f"is {kind.text()!r}; expected 'raw', or none")
        if path.is_file() or entry.flag_of("required", usual=True):
            known = {**values, **entry.source.variables}
            values.update(read_env_file(path, known, raw=kind is not None))
    own = service.get("environment")
    if own is None:
        return values
    # A name without a value here takes it from no file either.
    return {it: values[it] for it in values.keys() - own.pairs().keys()} | _resolved(own)


def _limits(service: Entry) -> dict[str, Any]:
    policies = ("restart_policy", "update_config", "rollback_config")
    deploy = service.part("deploy")
    deploy.only("resources", "replicas", "mode", "labels", "endpoint_mode", *policies)
    for count in (deploy.get("replicas"), service.get("scale")):
        if count and count.whole() != 1:
            raise count.error("other than 1 is not supported")
    resources = deploy.part("resources").only("limits", "reservations")
    resources.part("reservations").only("cpus", "memory")
    deployed = resources.part("limits").only("memory", "cpus", "pids")
    found: dict[str, Any] = {}
    for option, key, name, read in (
        ("memory", "mem_limit", "memory", Entry.size),
        ("cpus", "cpus", "cpus", Entry.number),
        ("pids", "pids_limit", "pids", lambda it: max(0, it.whole(least=-1))),
    ):
        old, new = service.get(key), deployed.get(name)
        if old and new and read(old) != read(new):
            raise old.error(f"and 'deploy.resources.limits.{name}' are not the same")
        if entry := old or new:
            found[option] = read(entry) or None  # 0 is no limit
    if shared := service.get("shm_size"):
        found["shm_size"] = shared.size()
    return found


def _texts(entry: Entry) -> Sequence[str]:
    return [it.text() for it in entry.entries()]


def _absolute(entry: Entry) -> str:
    if not entry.text().startswith("/"):
        raise entry.error(f"is {entry.text()!r}; expected an absolute path")
    return entry.text()


def _values(
    entry: Entry, *separators: str, read: Callable[[Entry], str] = Entry.text
) -> Mapping[str, str]:
    found = entry.pairs(*separators)
    if None in found.values():
        raise entry.error("has a name without a value")
    return {name: read(entry.replaced(it.text())) for name, it in found.items() if it}


def _ulimits(entry: Entry) -> Mapping[str, tuple[int, int]]:
    def limits(entry: Entry) -> tuple[int, int]:
        if not isinstance(entry.value, dict):
            return (entry.whole(least=-1),) * 2
        soft, hard = map(entry.only("soft", "hard").must, ("soft", "hard"))
        return soft.whole(least=-1), hard.whole(least=-1)

    return {name: limits(limit) for name, limit in entry.mapping().items()}


_RUN_OPTIONS: Final[Mapping[str, Callable[[Entry], Any]]] = {
    "working_dir": _absolute,
    "platform": Entry.text,
    **dict.fromkeys(("hostname", "domainname"), host_name),
    **dict.fromkeys(("init", "tty", "stdin_open", "read_only"), Entry.flag),
    **dict.fromkeys(("group_add", "dns_search", "dns_opt"), _texts),
    "dns": lambda entry: [address(it) for it in entry.entries()],
    "sysctls": _values,
    "extra_hosts": lambda entry: _values(entry, "=", ":", read=address),
    "ulimits": _ulimits,
}


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
    durations = ("interval", "timeout", "start_period", "start_interval")
    check = service.part("healthcheck").only("test", "disable", "retries", *durations)
    timeout = {key: check.read(key, Entry.seconds, 0.0) for key in durations}["timeout"]
    check.read("retries", Entry.whole, 0)
    argv = check.read("test", _test, None)
    if check.flag_of("disable") or (check.get("test") and argv is None):
        if dependent:
            raise dependent.error(f"waits until {name!r} is healthy, which has no healthcheck")
        return None
    if not service.get("healthcheck") and not dependent:
        return None
    otherwise = Tcp() if ports and ports[0].endswith("/tcp") else None
    return _Healthcheck(argv, timeout or _USUAL_TIMEOUT, dependent, otherwise)


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
