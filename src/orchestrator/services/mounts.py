"""What of this machine a container may see."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.errors import DeclarationError
from orchestrator.services.options import is_path

if TYPE_CHECKING:
    from collections.abc import Sequence

ALLOWANCES: Final = ("docker-socket", "home", "root")
_SOCKETS: Final = ("docker.sock", "containerd.sock", "podman.sock", "crio.sock")
_SOCKET_FOLDERS: Final = (Path("/run"), Path("/var/run"), Path("/var"))


def check_mounts(
    mounts: Mapping[str, str | Path], *, allow: Sequence[str] = (), follow: bool
) -> None:
    """Raise DeclarationError for a mount that hands out more than a test should.

    The engine's socket is root on this machine; home folders hold keys; the root folder holds
    both. So do the folders around them.

    Args:
        mounts: Container path to a path of this machine.
        allow: What is let through all the same.
        follow: Look where links lead to; declaring does not touch the disk.
    """
    if not isinstance(mounts, Mapping):
        raise DeclarationError(
            f"Container(mounts={mounts!r}) cannot be used: expected a mapping of absolute "
            "container path to a path of this machine"
        )
    for path, source in mounts.items():
        if not is_path(path) or ":" in path or not isinstance(source, (str, Path)) or not source:
            raise DeclarationError(
                f"Container(mounts=…) cannot mount {source!r} at {path!r}: expected a path of this "
                "machine, and an absolute container path without a colon"
            )
        if ":" in str(source):
            raise DeclarationError(f"Container(mounts=…) cannot mount {source!r}: it has a colon")
        paths = [Path(source).absolute(), *([Path(source).resolve()] if follow else [])]
        what = next(filter(None, map(_precious, paths)), None)
        if what is not None and what not in allow:
            raise DeclarationError(
                f"Container(mounts=…) refuses to mount {str(source)!r}: it holds the "
                f"{_NAMES[what]}. If the test is about just that, ask for it by name: "
                f"allow=[{what!r}]"
            )


_NAMES: Final = {
    "docker-socket": "socket of the container engine, which makes whoever has it root here",
    "home": "home folder of a user",
    "root": "root folder of this machine",
}


def _precious(source: Path) -> str | None:
    path = Path("/", os.path.normpath(source).lstrip("/"))  # normpath keeps two slashes
    if path == Path("/"):
        return "root"
    if path.name in _SOCKETS or path in _SOCKET_FOLDERS:
        return "docker-socket"
    hidden = path.parent in _homes() and path.name.startswith(".")  # ~/.ssh, ~/.docker
    return "home" if hidden or path in _homes() else None


def _homes() -> Sequence[Path]:
    homes = [Path("/home"), Path("/root"), Path("/Users")]
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home
        return homes
    parents = [*home.parents][:-1]  # without the root folder, which has its own name
    return [*homes, home, *parents]
