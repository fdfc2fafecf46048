"""`Container`: anything else that comes as an image."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from orchestrator.errors import DeclarationError
from orchestrator.probes import Tcp
from orchestrator.services.service import Service

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.probes import Probe

_PORT: Final = re.compile(r"(\d{1,5})(?:/(tcp|udp|sctp))?")
_HIGHEST_PORT: Final = 65535


class Container(Service):
    """Any image.

    Attributes:
        image: The reference; required.
        ports: Container ports to publish, the main one first, such as ``[8080, "53/udp"]``.
        probe: What tells that it is ready. Without one it is ready when its main port, if that is
            a TCP port, keeps a connection; without ports, when it runs.
    """

    ports: Sequence[int | str] = ()
    probe: Probe | None = None

    def check_options(self) -> None:
        """Raise DeclarationError for a missing image, a port that is none, or a bad probe."""
        if self.image is None:
            raise DeclarationError("Container needs an image, such as image='nginx:1.27-alpine'")
        if isinstance(self.ports, (str, bytes, int)):
            raise DeclarationError(
                f"Container(ports={self.ports!r}) cannot be used: expected a list such as [8080]"
            )
        names = self.container_ports()
        if len(set(names)) < len(names):
            raise DeclarationError(f"Container(ports={self.ports!r}) names a port twice")
        if self.probe is not None and not callable(getattr(self.probe, "check", None)):
            raise DeclarationError(
                f"Container(probe={self.probe!r}) cannot be used: expected a probe such as "
                "orchestrator.probes.Http('/health')"
            )

    def container_ports(self) -> Sequence[str]:
        """The declared ports, each with its protocol."""
        return [_port_name(port) for port in self.ports]

    def readiness(self) -> Probe | None:
        """The declared probe, or an open main port."""
        if self.probe is None and self.ports and self.container_ports()[0].endswith("/tcp"):
            return Tcp()
        return self.probe

    @property
    def internal_url(self) -> str:
        """Where another container of the class finds the main port."""
        number, _, protocol = self.container_ports()[0].partition("/")
        return f"{protocol}://{self.alias}:{number}"


def _port_name(port: int | str) -> str:
    match = _PORT.fullmatch(str(port))
    if not match or not 0 < int(match[1]) <= _HIGHEST_PORT:
        raise DeclarationError(
            f"Container(ports=…) cannot publish {port!r}: expected a number up to 65535, or text "
            "such as '53/udp'"
        )
    return f"{match[1]}/{match[2] or 'tcp'}"
