"""An image registry, asked directly: what a tag is now, and what an index holds.

The daemon's own endpoint for this gives the digest of the index only, not those of the platforms.
This client speaks the distribution specification's v2 API as docker does, with docker's credentials
and certificates, and plain HTTP only for this machine and what the daemon calls insecure.

A registry, or whoever stands in its way, may be hostile. So credentials answer nobody but the
registry they are for and the token service it names; where a question was asked over https, nobody
is asked over less; bodies are bounded and never unpacked; and an answer has one deadline from the
first redirect to the last byte. requests would follow, unpack and trust on its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import os
import re
import socket
import ssl
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.error import URLError
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import (
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    parse_http_list,
)

import certifi
import requests.utils

from orchestrator.engine.images import find_credentials
from orchestrator.errors import EngineError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from email.message import Message

    from orchestrator.engine.images import Credentials

T = TypeVar("T")

_KINDS: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_LARGEST: Final = 4 << 20  # bytes; the specification's limit for a manifest
_LONGEST_WORDS: Final = 400  # characters of a registry's own words in a message
_REDIRECTS: Final = 5
_HOSTS: Final = {"docker.io": "registry-1.docker.io"}
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")  # what may stand in a header
_HOST: Final = re.compile(r"[\w.-]+(:\d+)?|\[[0-9a-fA-F:.]+\](:\d+)?", re.ASCII)
_OK, _UNAUTHORIZED = 200, 401
_MOVED: Final = (301, 302, 303, 307, 308)


@dataclass(frozen=True, kw_only=True)
class Document:
    """A manifest, an index or a config, and the digest of its bytes, computed here."""

    digest: str
    content: bytes


class RegistryClient:
    """Reads manifests from registries. Safe to use from several threads.

    The timeout (seconds) is for one answer as a whole, with redirects and token. ``insecure`` are
    hosts and networks that need no trusted certificate, beside this machine.
    """

    def __init__(self, *, timeout: float, insecure: Sequence[str] = ()) -> None:
        self._timeout = timeout
        self._insecure = insecure

    def manifest(self, registry: str, repository: str, reference: str) -> Document:
        """The manifest or index under a tag or digest; `EngineError` if it cannot be had."""
        return self._get(registry, repository, "manifests", reference)

    def blob(self, registry: str, repository: str, digest: str) -> Document:
        """A small blob, such as an image's config; `EngineError` if it cannot be had."""
        return self._get(registry, repository, "blobs", digest)

    def _get(self, registry: str, repository: str, kind: str, reference: str) -> Document:
        what = f"{repository}{'@' if ':' in reference else ':'}{reference}"
        place = f"{_HOSTS.get(registry, registry)}/v2/{repository}/{kind}/{reference}"
        silent = f"did not answer within {self._timeout:g} s"
        begun = time.monotonic()
        shares = {"https": 1.0}
        if is_insecure(registry, self._insecure):
            shares = {"https": 0.5, "http": 1.0}  # a silent port 443 leaves time for port 80
        for scheme, share in shares.items():
            question = _Question(
                registry=registry,
                repository=repository,
                what=what,
                url=f"{scheme}://{place}",
                insecure=self._insecure,
                until=begun + share * self._timeout,
            )
            try:
                # In a thread, as no timeout of a socket bounds the whole.
                content = in_thread(question.answer).result(question.until - time.monotonic())
                break
            except TimeoutError as error:
                raise EngineError(f"{question}, {silent}") from error
            except ValueError as error:  # of urllib, about the address of a redirect or a realm
                raise EngineError(f"{question}, sends on to what is no address: {error}") from error
            except _Lost as lost:
                if share == 1 or lost.url != question.url or not lost.speaks_no_tls:
                    told = f", {silent}" if lost.timed_out else lost.message
                    raise EngineError(f"{question}{told}") from lost.error
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if ":" in reference and digest != reference:
            raise EngineError(
                f"registry {registry} delivered other bytes for {what}: digest verification "
                f"failed, they are {digest}"
            )
        return Document(digest=digest, content=content)


@dataclass(frozen=True, kw_only=True)
class _Answer:
    url: str
    status: int
    reason: str
    headers: Message
    body: bytes


class _Lost(Exception):  # noqa: N818 - it ends as an EngineError
    """No whole answer came from a URL."""

    def __init__(self, url: str, error: Exception) -> None:
        super().__init__(url)
        self.url = url
        self.error = error
        reason = error.reason if isinstance(error, URLError) else error
        host = urlsplit(url).netloc
        self.timed_out = isinstance(reason, TimeoutError)
        # Whether it came to no connection, for another reason than its certificate.
        self.speaks_no_tls = isinstance(error, URLError)
        if isinstance(reason, socket.gaierror):
            self.message = f": the name {host} does not resolve: {reason.strerror}"
        elif isinstance(reason, ssl.SSLCertVerificationError):
            self.speaks_no_tls = False
            self.message = f": the certificate of {host} is not trusted: {reason.verify_message}"
        elif isinstance(reason, ssl.SSLError):
            self.message = f": tls: {host} cannot be talked to: {reason}"
        else:
            said = getattr(reason, "strerror", None) or reason
            self.message = f": {host} cannot be reached: {said}"


@dataclass(frozen=True, kw_only=True)
class _Question:
    """One document, to be had at one URL until then (`time.monotonic`)."""

    registry: str
    repository: str
    what: str
    url: str
    insecure: Sequence[str]
    until: float

    def __str__(self) -> str:
        return f"registry {self.registry}, asked for {self.what}"

    def answer(self) -> bytes:
        """The document's bytes."""
        headers = {"Accept": ",".join(_KINDS)}
        answer = self._follow(self.url, headers)
        if answer.status == _UNAUTHORIZED:
            headers["Authorization"] = self._authorization(answer)
            answer = self._follow(self.url, headers)
        return self._body(answer)

    def _authorization(self, answer: _Answer) -> str:
        """What answers the challenge of a 401: Basic, or Bearer with a token of the realm."""
        if _origin(answer.url) != _origin(self.url):
            raise EngineError(
                f"{self}, sends on to {urlsplit(answer.url).netloc}, which asks for a password; "
                f"the credentials for {self.registry} are for nobody else",
                status=answer.status,
            )
        challenges = _challenges(answer.headers.get_all("WWW-Authenticate", []))
        credentials = find_credentials(self.registry)
        if "bearer" in challenges:
            return f"Bearer {self._token(challenges['bearer'], credentials)}"
        if "basic" in challenges and credentials.username:
            return credentials.basic
        raise self._refusal(answer)

    def _token(self, challenge: Mapping[str, str], credentials: Credentials) -> str:
        realm = challenge.get("realm", "")
        if not realm:
            raise EngineError(f"{self}: it asks for a token, but names no service that gives one")
        place = urlsplit(realm)
        plain = place.scheme == "http" and (
            place.netloc == urlsplit(self.url).netloc or is_insecure(place.netloc, self.insecure)
        )
        if not self._may_ask(realm) or (credentials and place.scheme != "https" and not plain):
            raise EngineError(
                f"{self}: its token service {realm!r} is not https, so it is not asked"
            )
        scope = challenge.get("scope") or f"repository:{self.repository}:pull"
        wanted = {"service": challenge.get("service", ""), "scope": scope}
        if credentials.token:
            form = {**wanted, "grant_type": "refresh_token", "client_id": "orchestrator"}
            form["refresh_token"] = credentials.token
            answer = self._hop(realm, {}, data=urlencode(form).encode())  # and no further
        else:
            headers = {"Authorization": credentials.basic} if credentials.username else {}
            url = f"{realm}{'&' if place.query else '?'}{urlencode(wanted)}"
            answer = self._follow(url, headers)
        try:
            content: Any = json.loads(self._body(answer))
            token = content.get("token") or content.get("access_token")
        except (ValueError, RecursionError, AttributeError):
            token = None
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise EngineError(f"{self}: its token service {realm!r} gave no token: unauthorized")
        return token

    def _body(self, answer: _Answer) -> bytes:
        """The body of a good answer, which is whole and as it was sent."""
        if answer.status != _OK:
            raise self._refusal(answer)
        if len(answer.body) > _LARGEST:
            raise EngineError(f"{self}: {answer.url} is larger than a manifest may be")
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise EngineError(f"{self}: {answer.url} is compressed, which nobody asked for")
        return answer.body

    def _refusal(self, answer: _Answer) -> EngineError:
        return EngineError(
            f"{self}, answered {answer.status} {answer.reason}{_words(answer.body)}",
            status=answer.status,
        )

    def _follow(self, url: str, headers: Mapping[str, str]) -> _Answer:
        """Ask, and go where the answer sends; what proves who asks stays at the first host."""
        for _ in range(_REDIRECTS + 1):
            answer = self._hop(url, headers)
            location = answer.headers.get("Location")
            if answer.status not in _MOVED or not location:
                return answer
            target = urljoin(url, location)
            if not self._may_ask(target):
                raise EngineError(f"{self}, sends on to {target!r}, where nobody is asked")
            if _origin(target) != _origin(url):
                headers = {n: value for n, value in headers.items() if n != "Authorization"}
            url = target
        raise EngineError(f"{self}, sends on more than {_REDIRECTS} times")

    def _may_ask(self, url: str) -> bool:
        """Over https; over http only where the question itself was asked so."""
        place = urlsplit(url)
        schemes = ("https", urlsplit(self.url).scheme)
        return place.scheme in schemes and bool(_HOST.fullmatch(place.netloc))

    def _hop(self, url: str, headers: Mapping[str, str], *, data: bytes | None = None) -> _Answer:
        """Ask one host; a body is read to just above what is of use."""
        host = urlsplit(url).netloc
        insecure = is_insecure(host, self.insecure)
        trust = find_trust(host, insecure=insecure) if url.startswith("https:") else None
        proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
        opener = OpenerDirector()
        opener.add_handler(ProxyHandler({urlsplit(url).scheme: proxy} if proxy else {}))
        opener.add_handler(HTTPHandler())
        opener.add_handler(HTTPSHandler(context=trust))
        asked = {**headers, "Accept-Encoding": "identity", "User-Agent": "orchestrator"}
        # a little before the deadline, so that a silent port is told apart from a slow answer
        seconds = max(0.9 * (self.until - time.monotonic()), 0.01)
        try:
            with opener.open(Request(url, data, asked), timeout=seconds) as response:  # noqa: S310
                return _Answer(
                    url=url,
                    status=response.status,
                    reason=response.reason,
                    headers=response.headers,
                    body=_read(response, until=self.until),
                )
        except (OSError, HTTPException, ValueError) as error:
            raise _Lost(url, error) from error


def in_thread(do: Callable[[], T]) -> Future[T]:
    """Do something in a thread that no exit waits for, as it would for a pool's."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(do())
        except BaseException as error:  # noqa: BLE001  # raised where it is waited for
            result.set_exception(error)

    threading.Thread(target=run, name="orchestrator-registry", daemon=True).start()
    return result


def _read(response: HTTPResponse, *, until: float) -> bytes:
    """The body, or just more of it than is of use."""
    content, size = bytearray(), response.length
    while len(content) <= _LARGEST and (size is None or len(content) < size):
        piece = response.read1(1 << 16 if size is None else min(1 << 16, size - len(content)))
        if not piece:
            break
        content += piece
        if time.monotonic() > until:
            raise TimeoutError
    if size is not None and len(content) < min(size, _LARGEST):
        raise IncompleteRead(b"", size - len(content))
    return bytes(content)


def _challenges(headers: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    """The parameters of each scheme (RFC 9110, 11.6.1), of the first challenge of that scheme.

    Commas set apart both challenges and their parameters; a blank before any = begins a challenge.
    """
    found: dict[str, dict[str, str]] = {}
    for piece in (piece for header in headers for piece in parse_http_list(str(header))):
        scheme, blank, parameter = piece.partition(" ")
        if "=" in scheme or not blank:
            scheme, parameter = ("", piece) if "=" in piece else (piece, "")
        if scheme:
            parameters: dict[str, str] = {}
            found.setdefault(scheme.lower(), parameters)
        name, equals, value = parameter.partition("=")
        if equals and found:
            parameters.setdefault(name.strip().lower(), value.strip().strip('"').replace("\\", ""))
    return found


def _origin(url: str) -> tuple[str, str]:
    place = urlsplit(url)
    return place.scheme, place.netloc.lower()


def _words(body: bytes) -> str:
    """A registry's own words, in one line."""
    try:
        errors = json.loads(body)["errors"]
        words = "; ".join(f"{e['code']} {e.get('message', '')}".strip() for e in errors)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""  # no body, or not in the specification's form
    return f": {printable(words, lines=False)[:_LONGEST_WORDS]}"


def is_insecure(host: str, insecure: Sequence[str]) -> bool:
    """Whether docker wants no trusted certificate: also of this machine (127.0.0.0/8)."""
    name = urlsplit(f"//{host}").hostname or ""
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

    An insecure host is checked only where docker has a certificate for it.
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
