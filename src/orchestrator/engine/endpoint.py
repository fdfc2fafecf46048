"""Where the daemon is: ``DOCKER_HOST``, else the current docker context, else the local socket."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

LOCAL: Final = "unix:///var/run/docker.sock"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """The address of a daemon.

    Attributes:
        url: ``unix:///path``, ``tcp://host:port`` or ``ssh://user@host``.
        tls: The folder with ca.pem, cert.pem and key.pem, or None for a plain connection.
        verify: Whether the daemon's certificate is checked; only of meaning with ``tls``.
    """

    url: str
    tls: Path | None = None
    verify: bool = True

    @property
    def socket(self) -> str | None:
        """The path of the unix socket, or None for a daemon reached in another way."""
        return urlsplit(self.url).path if self.url.startswith("unix://") else None

    @property
    def hostname(self) -> str | None:
        """The name of the daemon's machine, or None when it is this one."""
        return None if self.socket else urlsplit(self.url).hostname


def find_endpoint(environ: Mapping[str, str] | None = None) -> Endpoint:
    """Find the daemon the way the docker command does.

    Raises:
        EngineError: The address or the docker context cannot be read.
    """
    environ = os.environ if environ is None else environ
    if url := environ.get("DOCKER_HOST"):
        secure = bool(environ.get("DOCKER_TLS_VERIFY"))
        folder = Path(environ.get("DOCKER_CERT_PATH") or _config(environ))
        return Endpoint(url=_checked(url, "DOCKER_HOST"), tls=folder if secure else None)
    name = environ.get("DOCKER_CONTEXT") or _current_context(environ)
    if name and name != "default":
        return _from_context(name, environ)
    return Endpoint(url=LOCAL)


def _checked(url: str, source: str) -> str:
    url = f"unix://{url}" if url.startswith("/") else url
    if not _is_address(url):
        raise EngineError(
            f"{source} is {url!r}; expected an address such as unix:///var/run/docker.sock, "
            "tcp://host:2376, tcp://[::1]:2376 or ssh://user@host"
        )
    return url


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # an IPv6 address without brackets, or a port that is no number
        return False
    if parts.scheme in ("tcp", "http", "https"):
        return port is not None
    return parts.scheme == "unix" or (parts.scheme == "ssh" and bool(parts.hostname))


def _config(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("DOCKER_CONFIG") or Path(environ.get("HOME", "/")) / ".docker")


def _current_context(environ: Mapping[str, str]) -> str | None:
    try:
        text = (_config(environ) / "config.json").read_text(encoding="utf-8")
        name = json.loads(text).get("currentContext")
    except (OSError, ValueError, AttributeError):
        return None  # an unreadable config.json is for the docker command to complain about
    return name if isinstance(name, str) else None


def _from_context(name: str, environ: Mapping[str, str]) -> Endpoint:
    """Read a docker context; its folders are named by the SHA-256 of its name."""
    key = hashlib.sha256(name.encode()).hexdigest()
    contexts = _config(environ) / "contexts"
    try:
        meta = json.loads((contexts / "meta" / key / "meta.json").read_text(encoding="utf-8"))
        docker = meta["Endpoints"]["docker"]
        url, skip = docker["Host"], docker.get("SkipTLSVerify", False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"docker context {name!r} cannot be read; see `docker context ls`, "
            "or set DOCKER_HOST to the daemon's address"
        ) from error
    folder = contexts / "tls" / key / "docker"
    tls = folder if folder.is_dir() else None
    return Endpoint(url=_checked(url, f"docker context {name!r}"), tls=tls, verify=not skip)
