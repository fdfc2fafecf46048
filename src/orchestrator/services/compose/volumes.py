"""Volumes of a Compose file: what is bound is copied in, the rest begins empty."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import DeclarationError
from orchestrator.services.container import allowed_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MOST: Final = 64 << 20  # bytes that are copied from one folder
_PARTS: Final = 3


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
