"""What a Redis server is told, when it is ready, and why it ended."""

from __future__ import annotations

import hashlib
import re
import shlex
from typing import TYPE_CHECKING, Final

from orchestrator.probes import NotReadyError
from orchestrator.probes.checks import connect

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    from orchestrator.probes.checks import Target
    from orchestrator.services.tls import Tls

_FOLDER: Final = "/etc/orchestrator-tls"
_COMPLAINT: Final = re.compile(
    r"^.*(?:FATAL CONFIG FILE ERROR|Error in user declaration).*$", re.MULTILINE
)
_DETAIL: Final = re.compile(r"^>>> (?P<line>.+)\n(?P<error>.+)$", re.MULTILINE)


def arguments(
    settings: Mapping[str, str | float], users: Mapping[str, tuple[str, str]]
) -> Sequence[str]:
    """Settings and users as arguments of the server.

    A password stands there as its SHA-256 only, because everybody on a machine may read arguments.

    Args:
        settings: What redis.conf would have.
        users: Names to password and ACL rules.
    """
    words_ = [word for name, value in settings.items() for word in (f"--{name}", *words(value))]
    for user, (password, rules) in users.items():
        words_ += ["--user", user, "on", verifier(password), *rules.split()]
    return words_


def words(value: str | float) -> list[str]:
    """A setting's value as the words that follow its name in redis.conf.

    Raises:
        ValueError: A quote does not end.
    """
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    return shlex.split(str(value)) or [""]


def verifier(password: str) -> str:
    """A password as an ACL rule that does not tell it."""
    return f"#{hashlib.sha256(password.encode()).hexdigest()}"


def tls_settings(port: int) -> Mapping[str, str]:
    """What a server with TLS is told."""
    return {
        "port": "0",
        "tls-port": str(port),
        "tls-ca-cert-file": f"{_FOLDER}/ca.pem",
        "tls-cert-file": f"{_FOLDER}/server.pem",
        "tls-key-file": f"{_FOLDER}/server.key",
        "tls-auth-clients": "no",
    }


def tls_files(tls: Tls) -> Mapping[str, bytes]:
    """What it reads then."""
    return {
        f"{_FOLDER}/ca.pem": tls.authority,
        f"{_FOLDER}/server.pem": tls.server.certificate,
        f"{_FOLDER}/server.key": tls.server.key,
    }


def ping(target: Target, tls: Tls | None) -> None:
    """Return when it answers PING; while it loads a data set it says LOADING instead.

    Raises:
        NotReadyError: It says something else.
    """
    with connect(target) as connection:
        if tls is None:
            answer = _ping(connection)
        else:
            context = tls.client_context
            with context.wrap_socket(connection, server_hostname=target.host) as secured:
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


def _ping(connection: socket.socket) -> bytes:
    connection.sendall(b"PING\r\n")
    return connection.recv(256)
