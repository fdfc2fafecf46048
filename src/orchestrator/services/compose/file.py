"""Reading a Compose file: YAML 1.2, variables, volumes, and which services are meant."""

from __future__ import annotations

import functools
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import DeclarationError, did_you_mean
from orchestrator.services.container import allowed_path
from orchestrator.services.once import driver
from orchestrator.variables import VariableError, expand

_TOP: Final = ("services", "name", "version", "volumes", "networks")
# YAML 1.2's core schema; PyYAML's own is that of 1.1, where `no` is false and 22:22 is 1342.
_SCALARS: Final = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    "null": (r"~|null|Null|NULL|", "~nN\0"),
}
_MOST: Final = 64 << 20  # bytes that are copied from one folder
_PARTS: Final = 3


def read_services(file: Path, wanted: Sequence[str] | None) -> Mapping[str, Mapping[str, Any]]:
    """The services to run, each as the file has it, with variables filled in.

    Raises:
        DeclarationError: The file cannot be read, or is no Compose file of the supported kind.
        MissingDriverError: PyYAML, or python-dotenv for an ``.env``, is not installed.
    """
    try:
        document = _load(file)
    except OSError as error:
        raise DeclarationError(f"{file} cannot be read: {error.strerror}") from error
    if not isinstance(document, dict) or not isinstance(document.get("services"), dict):
        raise DeclarationError(f"{file} is no Compose file: it has no services")
    for key in document:
        if key not in _TOP and not str(key).startswith("x-"):
            raise DeclarationError(
                f"{file}: {key!r} is not supported; supported are {', '.join(_TOP)} and x-…"
            )
    dotenv = file.parent / ".env"
    variables = {**(read_env_file(dotenv) if dotenv.is_file() else {}), **os.environ}
    services = document["services"]
    for name, service in services.items():
        if not isinstance(service, dict):
            raise DeclarationError(f"{file}: service {name!r} is not a mapping")
    chosen = {
        name: _filled_in(services[name], variables, place=f"{file}: service {name!r}")
        for name in _selected(services, wanted, file=file)
    }
    check_not_shared(chosen, file=file)
    return chosen


def _load(file: Path) -> Any:
    yaml = driver("yaml", extra="compose")
    try:
        return yaml.load(file.read_bytes(), Loader=_loader())
    except (yaml.YAMLError, RecursionError) as error:
        raise DeclarationError(f"{file} is not YAML that can be read: {error}") from error


@functools.cache
def _loader() -> Any:
    yaml = driver("yaml", extra="compose")

    merge = {"<": [("tag:yaml.org,2002:merge", re.compile(r"<<"))]}
    loader: Any = type("Loader", (yaml.SafeLoader,), {"yaml_implicit_resolvers": merge})
    for name, (pattern, first) in _SCALARS.items():
        beginnings = ["" if letter == "\0" else letter for letter in first]
        loader.add_implicit_resolver(
            f"tag:yaml.org,2002:{name}", re.compile(rf"(?:{pattern})\Z"), beginnings
        )
    loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: _whole(node.value))
    return loader


def _whole(text: str) -> int:
    """An integer of YAML 1.2, where a leading zero is no octal."""
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _selected(
    services: Mapping[str, Mapping[str, Any]], wanted: Sequence[str] | None, *, file: Path
) -> Sequence[str]:
    """The wanted services and all they depend on, in the order of the file."""
    todo = [name for name, it in services.items() if not it.get("profiles")]
    todo = list(wanted) if wanted is not None else todo
    found: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in services:
            raise DeclarationError(
                f"{file} has no service {name!r}"
                f"{did_you_mean(str(name), map(str, services), otherwise='it has')}"
            )
        if name not in found:
            found.add(name)
            todo.extend(services[name].get("depends_on") or ())
    return [name for name in services if name in found]


def read_env_file(file: Path) -> Mapping[str, str]:
    """The variables of an ``.env`` or an ``env_file``; a name without ``=`` is none.

    Raises:
        DeclarationError: It cannot be read, or a line of it is no ``NAME=value``.
        MissingDriverError: python-dotenv is not installed.
    """
    parser = driver("dotenv.parser", extra="compose")
    try:
        found = list(parser.parse_stream(io.StringIO(file.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError) as error:
        raise DeclarationError(f"{file} cannot be read: {error}") from error
    for it in found:
        if it.error:
            text = it.original.string.lstrip()
            blank = it.original.string.removesuffix(text).count("\n")
            name, equals, _ = text.strip().partition("=")
            raise DeclarationError(  # without the value, which may be a secret
                f"{file}, line {it.original.line + blank}: expected NAME=value, "
                f"not {name + equals + '…' if equals else name!r}"
            )
    return {it.key: it.value for it in found if it.key is not None and it.value is not None}


def _filled_in(value: Any, variables: Mapping[str, str], *, place: str) -> Any:
    """The same, with every ``$NAME`` and ``${NAME…}`` in its texts replaced."""
    if isinstance(value, str):
        try:
            return expand(value, variables)
        except VariableError as error:
            raise DeclarationError(f"{place}: {error}") from error
    if isinstance(value, Mapping):
        return {key: _filled_in(it, variables, place=place) for key, it in value.items()}
    if isinstance(value, list):
        return [_filled_in(it, variables, place=place) for it in value]
    return value


def copied(
    volumes: Sequence[Any], *, folder: Path, allow: Sequence[str | Path]
) -> Mapping[str, Path]:
    """Container path to the file that is copied there.

    Args:
        volumes: The entries of one service.
        folder: Where the Compose file is.
        allow: What may be copied from outside of the project's folder.

    Raises:
        DeclarationError: An entry cannot be read, or what it binds may not get into a container.
    """
    files: dict[str, Path] = {}
    for entry in volumes:
        source, target = _bound(entry)
        if source is None:
            continue
        option = f"volume {target}"
        path = allowed_path(folder / Path(source).expanduser(), allow=allow, option=option)
        for at, file in _files(path, target).items():
            files[at] = allowed_path(file, allow=allow, option=option)  # it may be a link
    return files


def check_not_shared(services: Mapping[str, Mapping[str, Any]], *, file: Path) -> None:
    """Raise DeclarationError when two services name one volume: each would find its own, empty."""
    users: dict[str, str] = {}
    for service, wanted in services.items():
        volumes = wanted.get("volumes")
        for volume in filter(None, map(_named, volumes if isinstance(volumes, list) else [])):
            other = users.setdefault(volume, service)
            if other != service:
                raise DeclarationError(
                    f"{file}: the services {other!r} and {service!r} share the volume {volume!r}, "
                    "which is not supported; leave one of them out with services=[…]"
                )


def _named(entry: Any) -> str | None:
    """The name of a volume; None for a folder and for a volume without a name."""
    if isinstance(entry, dict):
        return str(entry["source"]) if entry.get("type") == "volume" and "source" in entry else None
    source, colon, _ = str(entry).partition(":")
    return source if colon and not source.startswith((".", "/", "~")) else None


def _bound(entry: Any) -> tuple[str | None, str]:
    """What is bound where; None for a volume, which begins empty."""
    if isinstance(entry, dict):
        kind, source, target = (str(entry.get(key)) for key in ("type", "source", "target"))
        if kind not in ("bind", "volume", "tmpfs"):
            raise DeclarationError(f"volume {entry!r} is not supported")
        return (source if kind == "bind" else None), target
    parts = str(entry).split(":")
    if len(parts) > _PARTS or not parts[-1]:
        raise DeclarationError(f"volume {entry!r} is not supported")
    if len(parts) == 1:
        return None, parts[0]
    return (parts[0] if parts[0].startswith((".", "/", "~")) else None), parts[1]


def _files(path: Path, target: str) -> Mapping[str, Path]:
    if path.is_file():
        return {target: path}
    if not path.is_dir():
        raise DeclarationError(f"volume {target}: {path} does not exist")
    found = [file for file in sorted(path.rglob("*")) if file.is_file()]
    size = sum(file.stat().st_size for file in found)
    if size > _MOST:
        raise DeclarationError(
            f"volume {target}: {path} has {size >> 20} MB; at most {_MOST >> 20} MB are copied "
            "into a container"
        )
    return {f"{target.rstrip('/')}/{file.relative_to(path).as_posix()}": file for file in found}
