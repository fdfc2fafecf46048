"""Who asks a registry, and which one is believed: docker's own credentials and certificates."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import certifi

from orchestrator.engine.docker_py import docker
from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """A user's name with a password, or an identity token; neither is shown by ``repr``."""

    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.username or self.token)

    @property
    def basic(self) -> str:
        """The header that proves it."""
        return f"Basic {base64.b64encode(f'{self.username}:{self.password}'.encode()).decode()}"


def find_credentials(registry: str) -> Credentials:
    """What docker's configuration has: auths, credHelpers or credsStore. Or `EngineError`."""
    try:
        config = docker.auth.load_config()
        found = config.resolve_authconfig(None if registry == "docker.io" else registry)
    except docker.errors.DockerException as error:
        raise credentials_failed(registry, error) from error
    if not found:
        return Credentials()
    return Credentials(
        username=found.get("Username") or found.get("username") or "",
        password=found.get("Password") or found.get("password") or "",
        token=found.get("IdentityToken") or found.get("identitytoken") or "",
    )


def credentials_failed(registry: str, error: Exception) -> EngineError:
    """The error for a credential helper that failed."""
    return EngineError(
        f"the credentials for {registry} cannot be had: {error}. Look at credHelpers and "
        "credsStore in docker's config.json, or run `docker login` again"
    )


def is_insecure(host: str, insecure: Sequence[str]) -> bool:
    """Whether docker wants no trusted certificate: also of this machine (127.0.0.0/8)."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    name = name.strip("[]")
    if name == "localhost" or host in insecure or name in insecure:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    if address.is_loopback:
        return True
    for network in insecure:
        with contextlib.suppress(ValueError, TypeError):  # a host's name; the other version of IP
            if address in ipaddress.ip_network(network):
                return True
    return False


def find_trust(host: str, *, insecure: bool) -> ssl.SSLContext:
    """What a host is trusted by: the system's authorities, and docker's certs.d.

    An insecure host is checked only where docker has a certificate for it. What cannot be used is
    an `EngineError`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    known = False
    config = os.environ.get("XDG_CONFIG_HOME") or Path(os.environ.get("HOME", "/")) / ".config"
    rootless = Path(config) / "docker" / "certs.d"
    for folder in (Path("/etc/docker/certs.d") / host, rootless / host):
        try:
            for authority in sorted(folder.glob("*.crt")):
                context.load_verify_locations(cafile=authority)
                known = True
            for certificate in sorted(folder.glob("*.cert")):
                context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        except (OSError, ssl.SSLError) as error:
            raise EngineError(f"a certificate in {folder} cannot be used: {error}") from error
    if insecure and not known:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context.load_default_certs()
    context.load_verify_locations(cafile=certifi.where())
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # whose proxy has its own authority
        if path := os.environ.get(variable):
            where = "capath" if Path(path).is_dir() else "cafile"
            try:
                context.load_verify_locations(**{where: path})
            except (OSError, ssl.SSLError) as error:
                raise EngineError(f"{variable}={path}: no certificate there: {error}") from error
    return context
