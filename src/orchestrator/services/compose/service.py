"""One service of a Compose file, as a `Container`; what cannot be kept is refused."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import DeclarationError
from orchestrator.probes import Exec
from orchestrator.services.compose.file import copied, read_env_file
from orchestrator.services.container import Build, Container
from orchestrator.services.hooks import CAPABILITIES, name_declaration

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.services.options import Scope

_READ: Final = (
    *("image", "build", "command", "entrypoint", "environment", "env_file", "ports", "depends_on"),
    *("healthcheck", "user", "volumes", "tmpfs", "shm_size", "mem_limit", "cpus", "pids_limit"),
    *("deploy", "cap_add", "cap_drop", "networks"),
)
# What makes no difference to a test: names, restarts (never, here), how it would be stopped.
_WITHOUT_EFFECT: Final = (
    *("annotations", "attach", "container_name", "develop", "expose", "labels", "logging"),
    *("profiles", "pull_policy", "restart", "stop_grace_period", "stop_signal"),
)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_PORT: Final = re.compile(r"(?:(?:.*:)?[0-9]*:)?(?P<port>[0-9]+)(?:/(?P<protocol>tcp|udp|sctp))?")
_TMPFS: Final = "256m"


class _Refused(Exception):  # noqa: N818 - it ends as a DeclarationError that says where
    """Something of the service cannot be kept."""


def to_container(
    name: str,
    wanted: Mapping[str, Any],
    *,
    file: Path,
    scope: Scope,
    startup_timeout: float,
    allow: Sequence[str | Path] = (),
) -> Container:
    """The declaration of one service.

    Raises:
        DeclarationError: It asks for what is not supported; the message says what, and where.
    """
    place = f"{file}: service {name!r}"
    try:
        _check(name, wanted)
        container = Container(
            **_what_runs(wanted, file.parent),
            **_limits(wanted),
            ports=[_port(port) for port in _list(wanted, "ports")],
            depends_on=_depends_on(wanted),
            files=copied(_list(wanted, "volumes"), folder=file.parent, allow=allow),
            scope=scope,
            startup_timeout=startup_timeout,
        )
    except (_Refused, DeclarationError) as error:
        raise DeclarationError(f"{place}: {error}") from None
    name_declaration(container, place)
    return container


def _check(name: str, wanted: Mapping[str, Any]) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _Refused("cannot be a host name")
    for key in wanted:
        if key not in (*_READ, *_WITHOUT_EFFECT) and not str(key).startswith("x-"):
            raise _Refused(f"{key!r} is not supported; supported are {', '.join(_READ)}")


def _what_runs(wanted: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    _check_networks(wanted.get("networks"))
    user = wanted.get("user")
    return {
        "image": None if "build" in wanted else wanted.get("image"),
        "build": _build(wanted["build"], folder) if "build" in wanted else None,
        "command": _words(wanted, "command"),
        "entrypoint": _words(wanted, "entrypoint"),
        "env": {**_env_files(wanted, folder), **_pairs(wanted, "environment")},
        "user": None if user is None else str(user),
        "probe": _probe(wanted.get("healthcheck")),
        "capabilities": _capabilities(wanted),
    }


def _limits(wanted: Mapping[str, Any]) -> dict[str, Any]:
    deploy = wanted.get("deploy") or {}
    for key in deploy:
        if key not in ("resources", "replicas", "restart_policy"):
            raise _Refused(f"'deploy.{key}' is not supported")
    if deploy.get("replicas", 1) != 1:
        raise _Refused("'deploy.replicas' other than 1 is not supported")
    limits = (deploy.get("resources") or {}).get("limits") or {}
    memory = wanted.get("mem_limit", limits.get("memory"))
    cpus = wanted.get("cpus", limits.get("cpus"))
    try:
        found: dict[str, Any] = {"memory": memory, "cpus": None if cpus is None else float(cpus)}
    except (TypeError, ValueError):
        raise _Refused(f"'cpus' is {cpus!r}, not a number") from None
    pids = wanted.get("pids_limit", limits.get("pids"))
    if pids is not None:
        found["pids"] = None if pids == -1 else pids
    if "shm_size" in wanted:
        found["shm_size"] = wanted["shm_size"]
    return {**found, "tmpfs": dict(map(_tmpfs, _list(wanted, "tmpfs")))}


def _tmpfs(entry: str) -> tuple[str, str]:
    path, _, options = str(entry).partition(":")
    size = re.search(r"(?:^|,)size=([^,]+)", options)
    return path, size[1] if size else _TMPFS


def _list(wanted: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = wanted.get(key)
    if value is None:
        return []
    if isinstance(value, (str, int)):
        return [value]
    if isinstance(value, list):
        return value
    raise _Refused(f"{key!r} is not a list")


def _words(wanted: Mapping[str, Any], key: str) -> Sequence[str] | None:
    value = wanted.get(key)
    if isinstance(value, str):
        try:
            return shlex.split(value)
        except ValueError as error:
            raise _Refused(f"{key!r} cannot be split into words: {error}") from None
    if isinstance(value, list):
        return [str(word) for word in value]
    if value is None:
        return None
    raise _Refused(f"{key!r} is neither text nor a list")


def _pairs(wanted: Mapping[str, Any], key: str) -> dict[str, str]:
    """A mapping, or a list of ``NAME=value``; a name alone takes its value from this process."""
    value = wanted.get(key) or {}
    if isinstance(value, list):
        split = [str(item).partition("=") for item in value]
        value = {name: text if equals else None for name, equals, text in split}
    if not isinstance(value, Mapping):
        raise _Refused(f"{key!r} is neither a mapping nor a list")
    found = {str(name): os.environ.get(name) if it is None else it for name, it in value.items()}
    return {name: _text(it) for name, it in found.items() if it is not None}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _env_files(wanted: Mapping[str, Any], folder: Path) -> dict[str, str]:
    values: dict[str, str] = {}
    for entry in _list(wanted, "env_file"):
        path = entry.get("path") if isinstance(entry, dict) else entry
        required = entry.get("required", True) if isinstance(entry, dict) else True
        if required or (folder / str(path)).is_file():
            values.update(read_env_file(folder / str(path)))
    return values


def _build(value: Any, folder: Path) -> Build:
    if isinstance(value, str):
        return Build(folder=folder / value)
    if not isinstance(value, dict):
        raise _Refused("'build' is neither a folder nor a mapping")
    for key in value:
        if key not in ("context", "dockerfile", "args", "target"):
            raise _Refused(f"'build.{key}' is not supported")
    return Build(
        folder=folder / str(value.get("context", ".")),
        dockerfile=value.get("dockerfile", "Dockerfile"),
        args=_pairs(value, "args"),
        target=value.get("target"),
    )


def _port(entry: Any) -> str:
    """The container's side; the host's is chosen freely, so that tests can run side by side."""
    if isinstance(entry, dict):
        entry = f"{entry.get('target')}/{entry.get('protocol', 'tcp')}"
    match = _PORT.fullmatch(str(entry))
    if match is None:
        raise _Refused(f"port {entry!r} is not supported; expected one such as '8080:80/tcp'")
    return f"{match['port']}/{match['protocol'] or 'tcp'}"


def _depends_on(wanted: Mapping[str, Any]) -> Sequence[str]:
    """Every service waits until what it depends on is ready, also where only a start is asked."""
    value = wanted.get("depends_on") or []
    if isinstance(value, dict):
        for name, about in value.items():
            condition = (about or {}).get("condition", "service_started")
            if condition not in ("service_started", "service_healthy"):
                raise _Refused(f"'depends_on.{name}' with condition {condition!r} is not supported")
    return [str(name) for name in value]


def _probe(healthcheck: Any) -> Exec | None:
    """The check's command, tried every few milliseconds instead of its interval."""
    if healthcheck is None:
        return None
    if not isinstance(healthcheck, dict):
        raise _Refused("'healthcheck' is not a mapping")
    test = healthcheck.get("test")
    if healthcheck.get("disable") or test in (None, "NONE", ["NONE"]):
        return None
    if isinstance(test, str):
        return Exec(["/bin/sh", "-c", test])
    kind, *argv = map(str, test)
    if kind == "CMD-SHELL" and len(argv) == 1:
        return Exec(["/bin/sh", "-c", *argv])
    if kind == "CMD" and argv:
        return Exec(argv)
    raise _Refused(f"'healthcheck.test' {test!r} is not supported")


def _capabilities(wanted: Mapping[str, Any]) -> Sequence[str] | None:
    more, less = _list(wanted, "cap_add"), _list(wanted, "cap_drop")
    if not more and not less:
        return None
    kept = [] if "ALL" in less else [name for name in CAPABILITIES if name not in less]
    return [*kept, *(name for name in map(str, more) if name not in kept)]


def _check_networks(networks: Any) -> None:
    """All services of a class stand on one network; more than membership cannot be kept."""
    if isinstance(networks, dict) and any(networks.values()):
        raise _Refused("'networks' with options such as aliases is not supported")
