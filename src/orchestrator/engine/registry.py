"""An image registry, asked directly: what a tag is now, and what an index holds.

The daemon's own endpoint for this gives the digest of the index only, not those of the platforms.
This client speaks the distribution specification's v2 API as docker does: the credentials of
docker's configuration, the certificates in certs.d, plain HTTP only for registries of this machine
and those the daemon calls insecure. It uses requests, which docker-py brings.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import requests
from requests.exceptions import RequestException, SSLError

from orchestrator.engine.registry_auth import Credentials, authorize, find_credentials
from orchestrator.engine.registry_tls import TlsAdapter, find_trust, is_insecure
from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json,"
    "application/vnd.docker.distribution.manifest.list.v2+json"
)
_MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json,"
    "application/vnd.docker.distribution.manifest.v2+json"
)
_LARGEST: Final = 4 << 20  # bytes; the specification's limit for a manifest
_POOL: Final = re.compile(r"^HTTPS?Connection(?:Pool)?\(.*?\): ")  # as urllib3 begins
_HOSTS: Final = {"docker.io": "registry-1.docker.io"}


@dataclass(frozen=True, kw_only=True)
class Document:
    """A manifest, an index or a config.

    Attributes:
        digest: Of its bytes, computed here.
    """

    digest: str
    content: bytes


class RegistryClient:
    """Reads manifests from registries. Safe to use from several threads; close it when done.

    Args:
        timeout: Seconds a registry has for one answer.
        insecure: Hosts and networks that need no trusted certificate, beside this machine.
    """

    def __init__(self, *, timeout: float, insecure: Sequence[str] = ()) -> None:
        self._timeout = timeout
        self._insecure = insecure

    def manifest(self, registry: str, repository: str, reference: str) -> Document:
        """The manifest or index under a tag or digest.

        Raises:
            EngineError: The registry refused or failed, or delivered other bytes.
        """
        return self._get(registry, repository, "manifests", reference)

    def blob(self, registry: str, repository: str, digest: str) -> Document:
        """A small blob, such as an image's config.

        Raises:
            EngineError: The registry refused or failed, or delivered other bytes.
        """
        return self._get(registry, repository, "blobs", digest)

    def _get(self, registry: str, repository: str, kind: str, reference: str) -> Document:
        what = f"{repository}{'@' if ':' in reference else ':'}{reference}"
        path = f"/v2/{repository}/{kind}/{reference}"
        insecure = is_insecure(registry, self._insecure)
        host = _HOSTS.get(registry, registry)
        trust = find_trust(host, insecure=insecure)
        with requests.Session() as session:
            session.mount("https://", TlsAdapter(trust))
            session.verify = trust.verify_mode is ssl.CERT_REQUIRED
            session.auth = _no_netrc  # it would displace the token
            try:
                content = self._read(session, f"https://{host}{path}", registry, repository)
            except RequestException as error:
                if not insecure:
                    raise _failure(registry, what, error) from error
                content = self._plain(session, f"http://{host}{path}", registry, repository, what)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if ":" in reference and digest != reference:
            raise EngineError(
                f"registry {registry} delivered other bytes for {what}: digest verification "
                f"failed, they are {digest}"
            )
        return Document(digest=digest, content=content)

    def _plain(
        self, session: requests.Session, url: str, registry: str, repository: str, what: str
    ) -> bytes:
        try:
            return self._read(session, url, registry, repository)
        except RequestException as error:
            raise _failure(registry, what, error) from error

    def _read(self, session: requests.Session, url: str, registry: str, repository: str) -> bytes:
        headers = {"Accept": f"{_INDEXES},{_MANIFESTS}"}
        response = self._request(session, url, headers)
        if response.status_code == requests.codes.unauthorized:
            response.close()
            credentials: Credentials = find_credentials(registry)
            headers["Authorization"] = authorize(
                session,
                response,
                credentials=credentials,
                repository=repository,
                timeout=self._timeout,
            )
            response = self._request(session, url, headers)
        with response:
            if not response.ok:
                _ = response.content  # read the registry's words before the connection closes
            response.raise_for_status()
            content = bytearray()
            for piece in response.iter_content(1 << 16):
                content += piece
                if len(content) > _LARGEST:
                    raise EngineError(
                        f"registry {registry}: {url} is larger than a manifest may be"
                    )
        return bytes(content)

    def _request(
        self, session: requests.Session, url: str, headers: dict[str, str]
    ) -> requests.Response:
        return session.get(url, headers=headers, timeout=self._timeout, stream=True)


def _no_netrc(request: Any) -> Any:
    return request


def _failure(registry: str, what: str, error: RequestException) -> EngineError:
    """The error of a registry, with its own words where it has any."""
    response = error.response
    if response is None:
        how = ": certificate" if isinstance(error, SSLError) else ", cannot be reached"
        return EngineError(f"registry {registry}, asked for {what}{how}: {_reason(error)}")
    return EngineError(
        f"registry {registry}, asked for {what}, answered {response.status_code} {response.reason}"
        f"{_words(response)}",
        status=response.status_code,
    )


def _reason(error: RequestException) -> str:
    """What went wrong, without the libraries' words around it; who was asked is said already."""
    inner = error.args[0] if error.args else error
    return _POOL.sub("", str(getattr(inner, "reason", None) or error))


def _words(response: requests.Response) -> str:
    try:
        errors = response.json()["errors"]
        return ": " + "; ".join(f"{e['code']} {e.get('message', '')}".strip() for e in errors)
    except (RequestException, RuntimeError, ValueError, KeyError, TypeError):
        return ""  # no body, or not in the specification's form
