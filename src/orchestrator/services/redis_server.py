"""How the server is started, and when it is ready."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.probes import NotReadyError
from orchestrator.probes.target import connect
from orchestrator.services.redis_options import words

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    from orchestrator.services.certificates import Authority, Certificate
    from orchestrator.services.redis import Redis

_FOLDER: Final = "/etc/orchestrator-tls"
_COMPLAINT: Final = re.compile(
    r"^.*(?:FATAL CONFIG FILE ERROR|Error in user declaration).*$", re.MULTILINE
)
_DETAIL: Final = re.compile(r"^>>> (?P<line>.+)\n(?P<error>.+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a server with TLS shows, and who signed it.

    Attributes:
        authority: What clients trust.
        server: What the server shows.
    """

    authority: Authority
    server: Certificate


def make_identity(*hosts: str) -> Identity:
    """An identity for a server that is reached under these names and addresses."""
    from orchestrator.services.certificates import create_authority  # only few use TLS

    authority = create_authority()
    return Identity(authority=authority, server=authority.server(*hosts))


def command(service: Redis) -> Sequence[str]:
    """Settings and users as arguments.

    A password stands there as its SHA-256 only, because everybody on a machine may read arguments.
    """
    limits = {"maxmemory": service.maxmemory, "maxmemory-policy": service.maxmemory_policy}
    settings: dict[str, str | float] = {
        "save": "",  # a test's server has nothing to lose, and forking costs time
        **{name: value for name, value in limits.items() if value is not None},
        **(_tls_settings(service.container_port) if service.tls else {}),
        **service.settings,
    }
    arguments = [word for name, value in settings.items() for word in (f"--{name}", *words(value))]
    for user, rules in {"default": "~* &* +@all", **service.users}.items():
        arguments += ["--user", user, "on", verifier(service.password_of(user)), *rules.split()]
    return arguments


def verifier(password: str) -> str:
    """A password as an ACL rule that does not tell it."""
    return f"#{hashlib.sha256(password.encode()).hexdigest()}"


def files(identity: Identity | None) -> Mapping[str, bytes]:
    """What a server with TLS reads."""
    if identity is None:
        return {}
    return {
        f"{_FOLDER}/ca.pem": identity.authority.certificate,
        f"{_FOLDER}/server.pem": identity.server.certificate,
        f"{_FOLDER}/server.key": identity.server.key,
    }


def answers(service: Redis) -> None:
    """Return when it answers PING; while it loads a data set it says LOADING instead.

    Raises:
        NotReadyError: It says something else.
    """
    with connect(service) as connection:
        if service.identity is None:
            answer = _ping(connection)
        else:
            context = service.identity.authority.client_context()
            with context.wrap_socket(connection, server_hostname=service.host) as secured:
                answer = _ping(secured)
    if not answer.startswith((b"+PONG", b"-NOAUTH")):
        raise NotReadyError(answer.decode(errors="replace").strip() or "the connection was closed")


def why_ended(logs: str) -> str:
    """What the log of a server that ended says about the reason; empty when nothing."""
    complaint = _COMPLAINT.search(logs)
    if complaint is None:
        return ""
    detail = _DETAIL.search(logs, complaint.end())
    return f"{detail['error']}: {detail['line']}" if detail else complaint[0].strip("# *")


def _tls_settings(port: int) -> Mapping[str, str]:
    return {
        "port": "0",
        "tls-port": str(port),
        "tls-ca-cert-file": f"{_FOLDER}/ca.pem",
        "tls-cert-file": f"{_FOLDER}/server.pem",
        "tls-key-file": f"{_FOLDER}/server.key",
        "tls-auth-clients": "no",
    }


def _ping(connection: socket.socket) -> bytes:
    connection.sendall(b"PING\r\n")
    return connection.recv(256)
