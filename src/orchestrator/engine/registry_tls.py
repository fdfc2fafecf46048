"""Which certificates a registry is trusted by: the system's, and docker's certs.d."""

from __future__ import annotations

import ipaddress
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter

from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence


class TlsAdapter(HTTPAdapter):
    """HTTPS to one registry, with what it is trusted by."""

    def __init__(self, trust: ssl.SSLContext) -> None:
        self._trust = trust
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Use our certificates."""
        super().init_poolmanager(*args, ssl_context=self._trust, **kwargs)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Use our certificates also by way of a proxy."""
        return super().proxy_manager_for(*args, ssl_context=self._trust, **kwargs)


def is_insecure(host: str, insecure: Sequence[str]) -> bool:
    """Whether docker talks to this registry without a trusted certificate.

    Registries of this machine always count, as they do for the daemon (127.0.0.0/8).
    """
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    name = name.strip("[]")
    if name == "localhost" or host in insecure or name in insecure:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or any(_contains(network, address) for network in insecure)


def _contains(network: str, address: Any) -> bool:
    try:
        return address in ipaddress.ip_network(network)
    except (ValueError, TypeError):
        return False


def find_trust(host: str, *, insecure: bool) -> ssl.SSLContext:
    """What a registry is trusted by; an insecure one is checked where docker has a CA for it.

    Raises:
        EngineError: A certificate in certs.d cannot be used.
    """
    context = ssl.create_default_context()
    known = False
    for folder in (Path("/etc/docker/certs.d") / host, _own_folder() / host):
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


def _own_folder() -> Path:
    """Where a rootless daemon looks."""
    config = os.environ.get("XDG_CONFIG_HOME") or Path(os.environ.get("HOME", "/")) / ".config"
    return Path(config) / "docker" / "certs.d"
