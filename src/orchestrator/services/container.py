"""`Container`: anything else that comes as an image, or is built from a Dockerfile."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from orchestrator.errors import DeclarationError
from orchestrator.probes import All, Http, Tcp, is_probe
from orchestrator.services import options
from orchestrator.services.files import check_owner
from orchestrator.services.hooks import address
from orchestrator.services.service import Service

if TYPE_CHECKING:
    from orchestrator.probes import Probe

_PORT: Final = re.compile(r"(\d{1,5})(?:/(tcp|udp|sctp))?")
_HIGHEST_PORT: Final = 65535
_CAPABILITY: Final = re.compile(r"[A-Z][A-Z_]*")
SOCKET: Final = "docker-socket"
WORDS: Final = (SOCKET, "home", "root")
_SOCKETS: Final = ("docker.sock", "containerd.sock", "podman.sock", "crio.sock")
_MARKS: Final = (("images.lock",), (".git", "pyproject.toml", "setup.py", "setup.cfg"))
_HOMES: Final = (Path("/home"), Path("/root"), Path("/Users"))
# Nothing in these is a project.
_SYSTEM: Final = (
    *("/boot", "/dev", "/etc", "/proc", "/run", "/sys", "/lost+found", "/System"),
    *("/var/lib/docker", "/var/lib/containerd", "/var/lib/containers", "/var/run"),
)
# In these, what has a mark and lies deep: a checkout of CI's in /var/lib/jenkins or /usr/src/app.
_PROGRAMS: Final = ("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/usr", "/var")
_DEEP: Final = 4  # parts of /var/lib/jenkins
_SHARED: Final = ("/media", "/mnt", "/opt", "/srv", "/tmp", "/Library", "/Volumes")  # noqa: S108


@dataclass(frozen=True, kw_only=True)
class Build:
    """What an image is built from.

    Every image that the Dockerfile names is taken from images.lock, as a service's own would be.

    Attributes:
        folder: What is sent to the engine, without what its ``.dockerignore`` leaves out.
        dockerfile: The Dockerfile's path in the folder.
        args: Values of its ``ARG``s; they are no place for secrets, which stay visible.
        target: The stage to build; the last one without.
    """

    folder: str | Path
    dockerfile: str = "Dockerfile"
    args: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None

    def __post_init__(self) -> None:
        check = functools.partial(options.check, self)
        folder, file = self.folder, self.dockerfile
        check("folder", options.is_local_path(folder), "a folder")
        good = options.is_text(file) and not Path(file).is_absolute()
        check("dockerfile", good, "the Dockerfile's path in the folder")
        options.check_environment(self, "args", self.args)
        good = self.target is None or isinstance(self.target, str)
        check("target", good, "the name of a stage")


class Container(Service):
    """Any image.

    Attributes:
        image: The reference; this or `build` is required.
        build: A folder with a Dockerfile, or a `Build`: the image is built when the class starts,
            once per process and content.
        ports: Container ports to publish, the main one first, such as ``[8080, "53/udp"]``.
        probe: What tells that it is ready. Without one it is ready when its main port, if that is
            a TCP port, keeps a connection; without ports, when it runs.
        entrypoint: Replaces the image's entry point.
        user: Who runs it: a name or an id, with ``:group`` if need be.
        mounts: Container path to a folder or file of the daemon's machine, mounted read-only, from
            the project's folder (`project_folder`). `files` copies one file from anywhere.
        allow: What else `mounts` may name: absolute paths with all below, such as a temporary
            folder of the test's, ``"docker-socket"``, ``"home"`` or ``"root"``.
        capabilities: The capabilities it has, instead of those that image entry points need.
    """

    build: str | Path | Build | None = None
    ports: Sequence[int | str] = ()
    probe: Probe | None = None
    entrypoint: Sequence[str] | None = None
    user: str | int | None = None
    mounts: Mapping[str, str | Path] = field(default_factory=dict)
    allow: Sequence[str | Path] = ()
    capabilities: Sequence[str] | None = None

    def check_options(self) -> None:
        """Raise DeclarationError for a value that cannot work; give the others one form each."""
        if (self.image is None) == (self.build is None):
            raise DeclarationError(
                "Container needs either an image, such as image='nginx:1.27-alpine', or a folder "
                "to build one from, such as build='docker/web'"
            )
        check = functools.partial(options.check, self)
        good = self.build is None or isinstance(self.build, Build)
        check("build", good or options.is_local_path(self.build), "a folder or a Build")
        expected = "a list of container ports such as [8080]; `port` says where it is published"
        good = isinstance(self.ports, Sequence) and not isinstance(self.ports, (str, bytes))
        check("ports", good, expected)
        ports = [_port_name(port) for port in self.ports]
        check("ports", len(set(ports)) == len(ports), "each port once")
        good = self.probe is None or is_probe(self.probe)
        check("probe", good, "a probe such as orchestrator.probes.Http('/health')")
        _check_probed_ports(self.probe, ports)
        options.check_words(self, "entrypoint", self.entrypoint)
        if self.user is not None:
            check_owner(self.user, "Container(user=…)")
        names = self.capabilities
        good = names is None or (options.is_words(names) and all(map(_CAPABILITY.fullmatch, names)))
        check("capabilities", good, "a list such as ['NET_ADMIN']")
        check_allow(self.allow)
        resolve_mounts(self.mounts, allow=self.allow)
        options.normalise(
            self,
            build=Build(folder=self.build) if isinstance(self.build, (str, Path)) else self.build,
            ports=ports,
            user=None if self.user is None else str(self.user),
        )

    def container_ports(self) -> Sequence[str]:
        """The declared ports, each with its protocol."""
        return cast("Sequence[str]", self.ports)

    def server_entrypoint(self) -> Sequence[str] | None:
        """The declared entry point."""
        return self.entrypoint

    def server_user(self) -> str | None:
        """The declared user."""
        return cast("str | None", self.user)

    def server_mounts(self) -> Mapping[str, str]:
        """The declared mounts, looked at again: links may have moved."""
        return resolve_mounts(self.mounts, allow=self.allow)

    def server_capabilities(self) -> Sequence[str]:
        """The declared capabilities, or those that image entry points need."""
        return super().server_capabilities() if self.capabilities is None else self.capabilities

    def readiness(self) -> Probe | None:
        """The declared probe, or an open main port."""
        if self.probe is None and self.ports and self.container_ports()[0].endswith("/tcp"):
            return Tcp()
        return self.probe

    @property
    def url(self) -> str:
        """Where a program on this machine finds the main port."""
        return f"{self._main_port()[1]}://{address(self.host, self.port)}"

    @property
    def internal_url(self) -> str:
        """Where another container of the class finds the main port."""
        number, protocol = self._main_port()
        return f"{protocol}://{self.alias}:{number}"

    def _main_port(self) -> tuple[str, str]:
        if not self.ports:
            raise DeclarationError(f"{self.alias} has no port; give it ports=[…]")
        number, _, protocol = self.container_ports()[0].partition("/")
        return number, protocol


def _check_probed_ports(probe: object, ports: Sequence[str]) -> None:
    """Raise DeclarationError for a probe of a port that nobody can reach."""
    if isinstance(probe, All):
        for each in probe.probes:
            _check_probed_ports(each, ports)
    if not isinstance(probe, (Tcp, Http)):
        return
    main = ports[0] if ports else None
    asked = main if probe.port is None else f"{probe.port}/tcp"
    if asked is None or asked not in ports or not asked.endswith("/tcp"):
        raise DeclarationError(
            f"Container(probe={probe}) asks a TCP port that is not published; "
            f"ports= has {', '.join(ports) or 'none'}"
        )


def _port_name(port: int | str) -> str:
    match = _PORT.fullmatch(str(port))
    if not match or not 0 < int(match[1]) <= _HIGHEST_PORT:
        raise DeclarationError(
            f"Container(ports=…) cannot publish {port!r}: expected a container port, such as 8080 "
            "or '53/udp'; `port` and `port_of` tell where it is published"
        )
    return f"{match[1]}/{match[2] or 'tcp'}"


# What of this machine a container may see: the project, and what a declaration names.


def resolve_mounts(
    mounts: Mapping[str, str | Path], *, allow: Sequence[str | Path]
) -> Mapping[str, str]:
    """Container path to the path of this machine that is mounted there, links resolved."""
    if not isinstance(mounts, Mapping):
        raise DeclarationError(
            f"Container(mounts={mounts!r}) cannot be used: expected a mapping of absolute "
            "container path to a path of this machine"
        )
    found = {}
    for path, source in mounts.items():
        good = options.is_local_path(source) and options.is_path(path)
        if not good or ":" in str(source) or ":" in path:
            raise DeclarationError(
                f"Container(mounts=…) cannot mount {source!r} at {path!r}: expected a path of this "
                "machine, and an absolute container path; neither may have a colon"
            )
        found[path] = str(allowed_path(source, allow=allow, option="Container(mounts=…)"))
    return found


def allowed_path(source: str | Path, *, allow: Sequence[str | Path], option: str) -> Path:
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
    is_socket = path.name in _SOCKETS
    with suppress(OSError):  # in a folder that only the daemon can look into
        is_socket = is_socket or path.is_socket()
    if is_socket:
        good = SOCKET in allow or path in named
    else:
        good = any(path.is_relative_to(each) for each in [*named, *([project] if project else [])])
    if good:
        return path
    via = "" if path == Path(source).absolute() else f", which is {str(path)!r}"
    word = "root" if path == Path("/") else "home" if path in _homes() else str(path)
    if path.name in _SOCKETS:
        word = SOCKET
        what = "it is the socket of a container engine, which makes whoever has it root here"
    elif project:
        what = f"it is not in the project's folder, {project}"
    else:
        what = f"the working directory, {Path.cwd()}, is in no project's folder"
    raise DeclarationError(
        f"{option} refuses {str(source)!r}{via}: {what}. If the test needs just that, also a "
        f"temporary folder of its own, name it: allow=[{word!r}]"
    )


def check_allow(allow: object) -> None:
    """Raise DeclarationError unless it is a list of absolute paths and known words."""
    good = isinstance(allow, (list, tuple)) and all(
        options.is_local_path(word) and (word in WORDS or Path(word).is_absolute())
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
    Python's own project files, else the working directory, unless it is hidden (``~/.ssh``) or of
    installed programs. A home, the system's folders and shared ones such as ``/tmp`` are none.
    """
    here = Path(os.path.realpath(Path.cwd()))
    for marks in _MARKS:
        for folder in (here, *here.parents):
            if _may_be_project(folder) and any((folder / mark).exists() for mark in marks):
                return folder
    hidden = any(part.startswith(".") for part in here.parts)
    return here if _may_be_project(here) and not hidden and not _is_in(here, _PROGRAMS) else None


def _may_be_project(folder: Path) -> bool:
    homes = _homes()
    wide = folder in {Path("/"), *homes, *homes[-1].parents, *map(Path, _SHARED)}
    shallow = _is_in(folder, _PROGRAMS) and len(folder.parts) < _DEEP
    return not wide and not shallow and not _is_in(folder, _SYSTEM)


def _is_in(path: Path, folders: Sequence[str]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


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


def _homes() -> Sequence[Path]:
    """Where homes are; this user's last."""
    try:
        return [*_HOMES, Path(os.path.realpath(Path.home()))]
    except RuntimeError:  # a user without a home
        return _HOMES
