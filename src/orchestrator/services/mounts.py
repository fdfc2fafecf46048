"""What of this machine a container may see: the project, and what a declaration names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.errors import DeclarationError
from orchestrator.services.options import is_path

if TYPE_CHECKING:
    from collections.abc import Sequence

SOCKET: Final = "docker-socket"
WORDS: Final = (SOCKET, "home", "root")
_SOCKETS: Final = ("docker.sock", "containerd.sock", "podman.sock", "crio.sock")
_MARKS: Final = (("images.lock",), (".git", "pyproject.toml", "setup.py", "setup.cfg"))
_HOMES: Final = (Path("/home"), Path("/root"), Path("/Users"))
_SYSTEM: Final = ("/boot", "/dev", "/etc", "/proc", "/run", "/sys")
_SHARED: Final = (
    *("/bin", "/lib", "/lib64", "/media", "/mnt", "/opt"),
    *("/sbin", "/srv", "/tmp", "/usr", "/var", "/Volumes"),  # noqa: S108 - no file is made there
)


def seen_mounts(
    mounts: Mapping[str, str | Path], *, allow: Sequence[str | Path]
) -> Mapping[str, str]:
    """Container path to the path of this machine that is mounted there, links resolved.

    Raises:
        DeclarationError: One cannot be mounted, or is neither in the project nor allowed.
    """
    if not isinstance(mounts, Mapping):
        raise DeclarationError(
            f"Container(mounts={mounts!r}) cannot be used: expected a mapping of absolute "
            "container path to a path of this machine"
        )
    found = {}
    for path, source in mounts.items():
        if not is_path(path) or ":" in path or not isinstance(source, (str, Path)) or not source:
            raise DeclarationError(
                f"Container(mounts=…) cannot mount {source!r} at {path!r}: expected a path of this "
                "machine, and an absolute container path without a colon"
            )
        if ":" in str(source) or "\0" in str(source):
            raise DeclarationError(f"Container(mounts=…) cannot mount {source!r}: it has a colon")
        found[path] = str(seen(source, allow=allow, option="Container(mounts=…)"))
    return found


def seen(source: str | Path, *, allow: Sequence[str | Path], option: str) -> Path:
    """The path of this machine that a name leads to, if containers may see it.

    That is what is in the project's folder (`project_folder`) or what ``allow`` names: a path, with
    everything below, or one of `WORDS`. An engine's socket has to be named wherever it is.

    Raises:
        DeclarationError: They may not; the message has what to add to ``allow``.
    """
    try:
        path = Path(os.path.realpath(source))
    except OSError as error:
        raise DeclarationError(
            f"{option} cannot see where {str(source)!r} leads to: {error.strerror}"
        ) from error
    project = project_folder()
    named = [each for word in allow for each in _paths(word)]
    if path.name in _SOCKETS or _is_socket(path):
        good = SOCKET in allow or path in named
    else:
        good = any(path.is_relative_to(each) for each in [*named, *([project] if project else [])])
    if good:
        return path
    via = "" if path == Path(source).absolute() else f", which is {str(path)!r}"
    word = SOCKET if path.name in _SOCKETS else str(path)
    if path == Path("/"):
        word = "root"
    elif path in _homes():
        word = "home"
    what = (
        "it is the socket of a container engine, which makes whoever has it root here"
        if word == SOCKET
        else f"it is not in the project's folder, {project}"
        if project
        else f"the working directory, {Path.cwd()}, is in no project's folder"
    )
    raise DeclarationError(
        f"{option} refuses {str(source)!r}{via}: {what}. If the test needs just that, also a "
        f"temporary folder of its own, name it: allow=[{word!r}]"
    )


def check_allow(allow: object) -> None:
    """Raise DeclarationError unless it is a list of absolute paths and known words."""
    good = isinstance(allow, (list, tuple)) and all(
        isinstance(word, (str, Path)) and (word in WORDS or Path(word).is_absolute())
        for word in allow
    )
    if not good:
        raise DeclarationError(
            f"allow={allow!r} cannot be used: expected a list of absolute paths of this machine, "
            f"or of {', '.join(map(repr, WORDS))}"
        )


def project_folder() -> Path | None:
    """The folder of the project in which the tests run; None where there is none.

    The nearest folder above the working directory with an ``images.lock``, else with a ``.git`` or
    Python's own project files, else the working directory. A home folder, a folder of the system
    and what holds others' folders, such as ``/tmp``, is no project.
    """
    here = Path(os.path.realpath(Path.cwd()))
    for marks in _MARKS:
        for folder in (here, *here.parents):
            if _may_be_project(folder) and any((folder / mark).exists() for mark in marks):
                return folder
    return here if _may_be_project(here) else None


def _may_be_project(folder: Path) -> bool:
    homes = _homes()
    wide = {Path("/"), *homes, *homes[-1].parents, *map(Path, _SHARED)}
    return folder not in wide and not any(folder.is_relative_to(each) for each in _SYSTEM)


def _paths(word: str | Path) -> Sequence[Path]:
    """What a word of ``allow`` stands for."""
    if word == SOCKET:
        return []
    if word == "home":
        return _homes()
    try:
        return [Path("/" if word == "root" else os.path.realpath(word))]
    except OSError:
        return []  # nothing that leads there can be seen


def _is_socket(path: Path) -> bool:
    try:
        return path.is_socket()
    except OSError:  # in a folder that only the daemon can look into
        return False


def _homes() -> Sequence[Path]:
    """Where homes are; this user's last."""
    try:
        return [*_HOMES, Path(os.path.realpath(Path.home()))]
    except RuntimeError:  # a user without a home
        return _HOMES
