"""`Container`: anything else that comes as an image, or is built from a Dockerfile."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.errors import DeclarationError
from orchestrator.probes import All, Http, Tcp
from orchestrator.probes.target import is_probe
from orchestrator.services import options
from orchestrator.services.mounts import check_allow, seen_mounts
from orchestrator.services.runtime import address
from orchestrator.services.service import Service

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.probes import Probe

_PORT: Final = re.compile(r"(\d{1,5})(?:/(tcp|udp|sctp))?")
_HIGHEST_PORT: Final = 65535


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
        good = (
            (isinstance(self.folder, Path) or (isinstance(self.folder, str) and self.folder))
            and isinstance(self.dockerfile, str)
            and self.dockerfile
            and not Path(self.dockerfile).is_absolute()
            and (self.target is None or isinstance(self.target, str))
            and isinstance(self.args, Mapping)
            and all(isinstance(k, str) and isinstance(v, str) for k, v in self.args.items())
        )
        if not good:
            raise DeclarationError(
                f"{self} cannot be used: expected a folder, the Dockerfile's path in it, args as a "
                "mapping of text to text, and the name of a stage"
            )


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
            the project's folder: the nearest one above the working directory with an
            ``images.lock``, else with a ``.git`` or ``pyproject.toml``, else the working directory.
            `files` copies one file from anywhere and is safer.
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
        """Raise DeclarationError for a value that cannot work."""
        if (self.image is None) == (self.build is None):
            raise DeclarationError(
                "Container needs either an image, such as image='nginx:1.27-alpine', or a folder "
                "to build one from, such as build='docker/web'"
            )
        good = isinstance(self.build, (Path, Build)) or self.build is None
        if not good and not (isinstance(self.build, str) and self.build):
            raise DeclarationError(
                f"Container(build={self.build!r}) cannot be used: expected a folder or a Build"
            )
        if isinstance(self.ports, (str, bytes, int, Mapping)):
            raise DeclarationError(
                f"Container(ports={self.ports!r}) cannot be used: expected a list of container "
                "ports such as [8080]; `port` and `port_of` tell where they are published"
            )
        names = self.container_ports()
        if len(set(names)) < len(names):
            raise DeclarationError(f"Container(ports={self.ports!r}) names a port twice")
        if self.probe is not None and not is_probe(self.probe):
            raise DeclarationError(
                f"Container(probe={self.probe!r}) cannot be used: expected a probe such as "
                "orchestrator.probes.Http('/health')"
            )
        _check_probed_ports(self.probe, names)
        options.check_words(self, "entrypoint", self.entrypoint)
        if self.user is not None and (
            isinstance(self.user, bool) or not re.fullmatch(r"[\w.:-]+", str(self.user))
        ):
            raise DeclarationError(
                f"Container(user={self.user!r}) cannot be used: expected a name or an id"
            )
        options.check_capabilities(self, "capabilities", self.capabilities)
        check_allow(self.allow)
        seen_mounts(self.mounts, allow=self.allow)

    def container_ports(self) -> Sequence[str]:
        """The declared ports, each with its protocol."""
        return [_port_name(port) for port in self.ports]

    def server_entrypoint(self) -> Sequence[str] | None:
        """The declared entry point."""
        return self.entrypoint

    def server_user(self) -> str | None:
        """The declared user."""
        return None if self.user is None else str(self.user)

    def server_mounts(self) -> Mapping[str, str]:
        """The declared mounts, looked at again: links may have moved."""
        return seen_mounts(self.mounts, allow=self.allow)

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
        _, protocol = self._main_port()
        return f"{protocol}://{address(self.host, self.port)}"

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
