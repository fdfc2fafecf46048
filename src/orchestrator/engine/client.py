"""Connections to the daemon: a pool of docker-py clients that raise this project's errors."""

from __future__ import annotations

import contextlib
import errno
import functools
import http.client
import math
import queue
import re
import shlex
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import requests.adapters
import requests.exceptions

from orchestrator.engine.api import product_of
from orchestrator.engine.docker_py import Client, docker, tls_context
from orchestrator.errors import EngineError, EngineUnavailableError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.engine.endpoint import Endpoint

# What a connection that breaks raises: within an answer, and before or within it.
_CUT_WITHIN: Final = (http.client.IncompleteRead, requests.exceptions.ChunkedEncodingError)
_CUTS: Final = (
    *_CUT_WITHIN,
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
    ssl.SSLEOFError,
)
# What is raised when nobody answers. A connection that ends without a word is such a case: of a
# forwarder without a daemon behind it.
_ABSENT: Final = (
    ConnectionError,
    FileNotFoundError,
    NotADirectoryError,
    socket.gaierror,
    ssl.SSLEOFError,
)
_NO_WAY: Final = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)
_THEIRS: Final = (docker.errors.DockerException, requests.exceptions.RequestException, OSError)
# What code that reads an answer raises when the answer lacks what it must have.
_MISREAD: Final = (LookupError, TypeError, ValueError, AttributeError)
_OWN_LIMITS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
_SPEAKS_TLS: Final = "sent an HTTP request to an HTTPS server"  # Go's words, as a plain answer
# What ssh, or the docker command at its far end, says where nobody answers.
_SSH_ABSENT: Final = re.compile("connect to host|resolve hostname|raw stream connection")
# By OpenSSL's number; 0 stands for its words, 1 for who has to know the authority.
_NOT_SIGNED: Final = (
    "the daemon's certificate is of an authority that is not known to {1}: {0}. "
    "DOCKER_CERT_PATH names the folder with the ca.pem of its authority."
)
_NAMED: Final = "{0}. Use a name that it has in DOCKER_HOST, or have it made for this one, too."
_CERTIFICATE: Final = {
    9: "the daemon's certificate is not valid yet; does this machine's clock go right?",
    10: "the daemon's certificate, or its authority's, has expired: it has to be made anew.",
    **dict.fromkeys((18, 19, 20, 21), _NOT_SIGNED),
    **dict.fromkeys((62, 63, 64), f"the daemon's certificate is for another host: {_NAMED}"),
}
_HEARING: Final = 2.0  # seconds
_FIRST_PAUSES: Final = (0.05, 0.2)  # seconds before the first request is repeated


class ClientPool:
    """Clients to one daemon, each lent to one thread at a time (docker-py issue 3229)."""

    def __init__(self, endpoint: Endpoint, *, timeout: float, about: Mapping[str, Any]) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self._about = about  # the daemon's version, once it has answered
        self._idle: queue.SimpleQueue[Client] = queue.SimpleQueue()

    @property
    def answered(self) -> bool:
        """Whether the daemon has answered anything here."""
        return bool(self._about)

    @functools.cached_property
    def is_podman(self) -> bool:
        """Whether it is Podman behind Docker's API, which does some things in its own way."""
        return product_of(self._version()) == "Podman"

    @functools.cached_property
    def is_rootless(self) -> bool:
        """Whether it runs without root."""
        if not self.is_podman:
            return "rootlesskit" in str(self._version().get("Components"))
        with self.client("tell about itself") as client:
            return "name=rootless" in client.info()["SecurityOptions"]

    def _version(self) -> Mapping[str, Any]:
        if not self._about:
            with self.client("tell its version"):
                pass
        return self._about

    @contextlib.contextmanager
    def client(self, doing: str, *, timeout: float | None = None) -> Iterator[Any]:
        """Lend a client for one request; ``doing`` completes "the daemon failed to …".

        What goes wrong is an EngineError; an EngineUnavailableError where no daemon can be used.
        """
        seconds = timeout or self._timeout
        try:
            with self._lent(seconds) as client:
                yield client
        except (*_THEIRS, *_MISREAD) as error:
            raise self.translated(
                error, doing, timeout=seconds, answered=self.answered
            ) from _without_traceback(error)

    @contextlib.contextmanager
    def _lent(self, seconds: float) -> Iterator[Client]:
        try:
            client = self._idle.get_nowait()
        except queue.Empty:
            client = self._connected()
            self._about = client.about  # later clients need not ask again
        client.timeout = math.ceil(seconds)
        try:
            yield client
        except docker.errors.APIError:
            self._idle.put(client)
            raise
        except BaseException:
            client.close()  # its connection is in an unknown state
            raise
        self._idle.put(client)

    def _connected(self) -> Client:
        """A new client; the first one asks the daemon for its version.

        That question is repeated when the connection breaks: a daemon that lost one connection is
        not absent. Behind a forwarder without a daemon every connection breaks.
        """
        for pause in (*_FIRST_PAUSES, None):
            try:
                self._ping()
                timeout = math.ceil(self._timeout)
                return Client(self._endpoint, about=self._about, timeout=timeout)
            except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
                if not _is_from(error, _CUTS):
                    raise
                if pause is None:
                    self._hear_out()
                    raise
                time.sleep(pause)
        raise AssertionError  # the last attempt returns or raises

    def _ping(self) -> None:
        """Connect to a local socket: docker-py leaks one that refuses."""
        if self._endpoint.socket:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(self._timeout)
                connection.connect(self._endpoint.socket)

    def _hear_out(self) -> None:
        """Let a daemon say what it thinks of our certificate, if that is what ended a connection.

        It cuts with a request unread, and then its last words may be lost on the way.
        """
        if self._endpoint.secure and not self._endpoint.proxy:
            where = urlsplit(self._endpoint.url)
            context = tls_context(self._endpoint)
            with (
                contextlib.suppress(TimeoutError),
                socket.create_connection((where.hostname, where.port or 0), _HEARING) as link,
                context.wrap_socket(link, server_hostname=where.hostname) as secured,
            ):
                secured.recv(1)

    def translated(
        self, error: Exception, doing: str, *, timeout: float, answered: bool
    ) -> EngineError:
        """The error of ours for one of docker-py, of requests, or of code that reads an answer.

        A connection that breaks is no sign of absence where the daemon has answered, and listens.
        """
        daemon, status = f"the Docker daemon at {self._endpoint.url}", None
        if _SPEAKS_TLS in str(error):
            return EngineUnavailableError(
                f"T{daemon[1:]} speaks TLS: set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to the "
                "folder with ca.pem, cert.pem and key.pem"
            )
        if isinstance(error, docker.errors.APIError):
            status = error.status_code
            told = f"The Docker daemon failed to {doing}: {_text(error.explanation or str(error))}"
        # docker-py puts the first request's timeout in an error of its own
        elif isinstance(error, requests.exceptions.Timeout) or "timed out" in str(error):
            told = f"T{daemon[1:]} did not answer within {timeout:g} s when asked to {doing}"
        elif _is_from(error, _CUT_WITHIN) or (
            answered and _is_from(error, _CUTS) and self._listens()
        ):
            told = (
                f"The connection to {daemon}, which had answered, broke when it was asked to "
                f"{doing}: {_reason(error)}"
            )
        elif any(isinstance(it, OSError) and it.errno in _OWN_LIMITS for it in _chain(error)):
            told = f"Could not ask {daemon} to {doing}: {_reason(error)}"
        elif isinstance(error, _MISREAD) and not isinstance(error, _THEIRS):
            told = (
                f"The answer of {daemon} cannot be understood, which was asked to {doing}: "
                f"{type(error).__name__}: {error}"
            )
        else:
            return _unavailable(error, doing, endpoint=self._endpoint)
        return EngineError(told, status=status)

    def _listens(self) -> bool:
        try:
            self._ping()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close every idle connection."""
        while not self._idle.empty():
            self._idle.get_nowait().close()


def _unavailable(error: Exception, doing: str, *, endpoint: Endpoint) -> EngineUnavailableError:
    """That nobody answers; or that somebody does who refuses, or is no daemon."""
    url, reason = endpoint.url, _reason(error)
    absent = _is_from(error, _ABSENT) or any(
        isinstance(it, OSError) and it.errno in _NO_WAY for it in _chain(error)
    )
    if endpoint.socket and _is_from(error, (PermissionError,)):
        told = (
            f"This user may not use the Docker daemon at {url}: permission denied. "
            "Run `sudo usermod -aG docker $USER` and log in again."
        )
    elif url.startswith("ssh:") and _is_from(error, (FileNotFoundError,)):
        absent = False
        told = f"The Docker daemon at {url} is reached with ssh, which is not installed."
    elif url.startswith("ssh:"):
        absent = bool(_SSH_ABSENT.search(reason))
        told = (
            f"No Docker daemon answers at {url}: {reason.rstrip('.')}. What has to work: "
            f"`{shlex.join(endpoint.way)} </dev/null`."
        )
    elif problem := _tls_problem(error, endpoint):
        absent = False
        told = f"The Docker daemon at {url} and this machine do not trust each other: {problem}"
    elif not absent:
        told = (
            f"What is at {url} refuses, or is no Docker daemon that can be used, "
            f"when asked to {doing}: {str(error).rstrip('.')}. "
            "`python -m orchestrator doctor` looks closer."
        )
    else:
        here = "(`sudo systemctl start docker`, or Docker Desktop)" if endpoint.socket else "there"
        told = (
            f"No Docker daemon answers at {url}: {reason}. Start it {here}, or set "
            "DOCKER_HOST to another one. `python -m orchestrator doctor` looks closer."
        )
    if endpoint.proxy:
        variable, address = endpoint.proxy
        told += (
            f" It was asked by way of the proxy {re.sub(r'//[^/]*@', '//***@', address)}, which "
            f"{variable} names; NO_PROXY={endpoint.hostname} has it asked directly."
        )
    return EngineUnavailableError(told, absent=absent)


def _tls_problem(error: Exception, endpoint: Endpoint) -> str:
    """What is wrong about certificates, and what to do; empty when it is something else."""
    folder, chain = endpoint.tls, [*_chain(error)]
    given = folder is not None and (folder / "cert.pem").exists()
    for it in chain:
        if isinstance(it, ssl.SSLCertVerificationError):
            authority = folder is not None and (folder / "ca.pem").exists()
            return _CERTIFICATE.get(
                it.verify_code, "the daemon's certificate is not good: {0}."
            ).format(
                it.verify_message,
                f"{folder}/ca.pem" if authority else f"this system (there is no {folder}/ca.pem)",
            )
    reason = next((it.reason for it in chain if isinstance(it, ssl.SSLError) and it.reason), "")
    if any(word in reason for word in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")):
        return (
            "what answers there does not speak TLS. Its port may be another one (2376 is usual); "
            "without TLS, unset DOCKER_TLS_VERIFY and DOCKER_TLS."
        )
    if "ALERT" not in reason:
        return ""
    said = reason.partition("ALERT_")[2].replace("_", " ").lower()
    if given:
        return f"it does not take the client certificate {folder}/cert.pem: {said}."
    return (
        f"it asks for a client certificate ({said}), and {folder} has no cert.pem and "
        "key.pem. DOCKER_CERT_PATH names the folder that has them."
    )


def _without_traceback(error: Exception) -> Exception:
    """The error without its traceback, which is two screens of docker-py and requests."""
    error.__cause__ = error.__context__ = None
    error.args = tuple(printable(arg) if isinstance(arg, str) else arg for arg in error.args)
    if isinstance(error, docker.errors.APIError) and error.explanation is not None:
        error.explanation = printable(_text(error.explanation))
    return error.with_traceback(None)


def _is_from(error: BaseException, kinds: tuple[type[Exception], ...]) -> bool:
    return any(isinstance(inner, kinds) for inner in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    inner: BaseException | None = error
    while inner is not None:
        yield inner
        said = next((arg for arg in inner.args if isinstance(arg, BaseException)), None)
        inner = inner.__cause__ or inner.__context__ or said


def _text(reason: str | bytes) -> str:
    return (reason.decode(errors="replace") if isinstance(reason, bytes) else reason).strip()


def _reason(error: BaseException) -> str:
    """What the operating system said, without the libraries' words around it."""
    said = (inner.strerror for inner in _chain(error) if isinstance(inner, OSError))
    return next(filter(None, said), str(error))
