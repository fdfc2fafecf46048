"""Connections to the daemon: a pool of docker-py clients that raise this project's errors."""

from __future__ import annotations

import contextlib
import errno
import http.client
import math
import queue
import re
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, Final

import requests.exceptions

from orchestrator.engine.docker_py import docker
from orchestrator.errors import EngineError, EngineUnavailableError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.engine.endpoint import Endpoint

_NOT_FOUND: Final = 404
_OURS: Final = re.compile(r"orchestrator-[0-9a-f]{8}-\d+-(.+)")  # as sessions name them
_ID: Final = re.compile(r"[0-9a-f]{64}")
_UNKNOWN: Final = "auto"  # docker-py's word for a version that it has to ask for
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
# What code that reads an answer raises when the answer lacks what it must have.
_MISREAD: Final = (LookupError, TypeError, ValueError, AttributeError)
_OWN_LIMITS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
_FIRST_PAUSES: Final = (0.05, 0.2)  # seconds before the first request is repeated


class _Client(docker.APIClient):
    """docker-py's client, which believes its own certificates.

    requests lets REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE, which are about the web, overrule the
    authority that was set for a session (requests issue 3829); then no TLS daemon can be verified.
    """

    def merge_environment_settings(
        self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> Any:
        verify = self.verify if verify is None else verify
        return super().merge_environment_settings(url, proxies, stream, verify, cert)


def short_name(thing: str) -> str:
    """A container or network in a message: the service of one of ours, a name, or a short id."""
    ours = _OURS.fullmatch(thing)
    return ours[1] if ours else thing[:12] if _ID.fullmatch(thing) else thing


class IgnoreMissing:
    """Ends its block early, without an error, when the daemon knows nothing of that name."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        return isinstance(error, EngineError) and error.status == _NOT_FOUND


class ClientPool:
    """Clients to one daemon, each lent to one thread at a time (docker-py issue 3229)."""

    def __init__(self, endpoint: Endpoint, *, timeout: float) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self._version = _UNKNOWN
        self._idle: queue.SimpleQueue[docker.APIClient] = queue.SimpleQueue()

    @property
    def answered(self) -> bool:
        """Whether the daemon has answered anything here."""
        return self._version != _UNKNOWN

    @contextlib.contextmanager
    def client(self, doing: str, *, timeout: float | None = None) -> Iterator[Any]:
        """Lend a client for one request; ``doing`` completes "the daemon failed to …".

        Raises:
            EngineUnavailableError: No daemon can be reached, or used.
            EngineError: The daemon refused, failed, did not answer in time, broke off, or answered
                what cannot be understood.
        """
        seconds = timeout or self._timeout
        with translate_errors(
            doing, endpoint=self._endpoint, timeout=seconds, present=self._is_present
        ):
            try:
                client = self._idle.get_nowait()
            except queue.Empty:
                client = self._connected()
                self._version = client.api_version  # later clients need not ask again
            client.timeout = math.ceil(seconds)
            try:
                yield client
            except requests.exceptions.RequestException:
                client.close()  # its connection is in an unknown state
                raise
            except docker.errors.APIError:
                self._idle.put(client)
                raise
            except BaseException:
                client.close()
                raise
            self._idle.put(client)

    def _connected(self) -> docker.APIClient:
        """A new client; the first one asks the daemon for its version.

        That question is repeated when the connection breaks: a daemon that lost one connection is
        not absent. Behind a forwarder without a daemon every connection breaks.
        """
        for pause in (*_FIRST_PAUSES, None):
            try:
                self._ping()
                return _Client(
                    base_url=self._endpoint.url,
                    version=self._version,
                    timeout=math.ceil(self._timeout),
                    tls=self._tls(),
                    use_ssh_client=True,
                )
            except docker.errors.DockerException as error:
                if pause is None or not _is_from(error, _CUTS):
                    raise
                time.sleep(pause)
        raise AssertionError  # the last attempt returns or raises

    def _ping(self) -> None:
        """Connect to a local socket first: docker-py leaks one that refuses."""
        if self._endpoint.socket:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(self._timeout)
                connection.connect(self._endpoint.socket)

    def _is_present(self) -> bool:
        try:
            self._ping()
        except OSError:
            return False
        return self.answered

    def _tls(self) -> Any:
        if self._endpoint.tls is None:
            return False
        folder = self._endpoint.tls
        ca, cert, key = (folder / f"{name}.pem" for name in ("ca", "cert", "key"))
        identity = (str(cert), str(key)) if cert.exists() and key.exists() else None
        if identity is None and self._endpoint.verify:
            raise EngineError(
                f"The Docker daemon at {self._endpoint.url} asks for a certificate, and {folder} "
                "lacks cert.pem or key.pem. DOCKER_CERT_PATH names the folder that has them; "
                "without TLS, unset DOCKER_TLS_VERIFY."
            )
        return docker.tls.TLSConfig(
            client_cert=identity,
            ca_cert=str(ca) if ca.exists() else None,
            verify=self._endpoint.verify,
        )

    def close(self) -> None:
        """Close every idle connection."""
        while not self._idle.empty():
            self._idle.get_nowait().close()


@contextlib.contextmanager
def translate_errors(
    doing: str,
    *,
    endpoint: Endpoint,
    timeout: float,
    present: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Turn errors of docker-py and requests in the block into `EngineError`.

    ``doing`` completes "the daemon failed to …"; ``present`` is whether the daemon has answered
    before and still listens: a connection that breaks then does not mean that there is none.
    """
    try:
        yield
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        ours = _translated(error, doing, endpoint=endpoint, timeout=timeout, present=present)
        raise ours from _without_traceback(error)
    except _MISREAD as error:
        raise EngineError(
            f"The answer of the Docker daemon at {endpoint.url} cannot be understood, which was "
            f"asked to {doing}: {type(error).__name__}: {error}"
        ) from _without_traceback(error)


def _translated(
    error: Exception,
    doing: str,
    *,
    endpoint: Endpoint,
    timeout: float,
    present: Callable[[], bool],
) -> EngineError:
    url = endpoint.url
    if isinstance(error, docker.errors.APIError):
        words = _text(error.explanation or str(error))
        return EngineError(
            f"The Docker daemon failed to {doing}: {words}", status=error.status_code
        )
    # docker-py puts the first request's timeout in an error of its own
    if isinstance(error, requests.exceptions.Timeout) or "timed out" in str(error):
        return EngineError(
            f"The Docker daemon at {url} did not answer within {timeout:g} s when asked to {doing}"
        )
    if _is_from(error, _CUT_WITHIN) or (_is_from(error, _CUTS) and present()):
        return EngineError(
            f"The connection to the Docker daemon at {url}, which had answered, broke when it was "
            f"asked to {doing}: {_reason(error)}"
        )
    if any(isinstance(it, OSError) and it.errno in _OWN_LIMITS for it in _chain(error)):
        return EngineError(f"Could not ask the Docker daemon at {url} to {doing}: {_reason(error)}")
    return _unavailable(error, doing, endpoint=endpoint)


def _unavailable(error: Exception, doing: str, *, endpoint: Endpoint) -> EngineUnavailableError:
    """That nobody answers; or that somebody does who refuses, or is no daemon."""
    url = endpoint.url
    ssh = url.startswith("ssh://")
    absent = _is_from(error, _ABSENT) or any(
        type(it) is OSError and it.errno in _NO_WAY for it in _chain(error)
    )
    if endpoint.socket and _is_from(error, (PermissionError,)):
        told = (
            f"This user may not use the Docker daemon at {url}: permission denied. "
            "Run `sudo usermod -aG docker $USER` and log in again."
        )
    elif ssh and _is_from(error, (FileNotFoundError,)):
        absent = False
        told = f"The Docker daemon at {url} is reached with ssh, which is not installed."
    elif not absent:
        told = (
            f"What is at {url} refuses, or is no Docker daemon that can be used, "
            f"when asked to {doing}: {str(error).rstrip('.')}. "
            "`python -m orchestrator doctor` looks closer."
        )
    elif ssh:
        told = (
            f"No Docker daemon answers at {url}: {_reason(error)}. What ssh has to say "
            f"about it: `ssh {url} docker version`."
        )
    else:
        here = "(`sudo systemctl start docker`, or Docker Desktop)" if endpoint.socket else "there"
        told = (
            f"No Docker daemon answers at {url}: {_reason(error)}. Start it {here}, or set "
            "DOCKER_HOST to another one. `python -m orchestrator doctor` looks closer."
        )
    return EngineUnavailableError(told, absent=absent)


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
        inner = inner.__cause__ or inner.__context__


def _text(reason: str | bytes) -> str:
    return (reason.decode(errors="replace") if isinstance(reason, bytes) else reason).strip()


def _reason(error: BaseException) -> str:
    """What the operating system said, without the libraries' words around it."""
    said = (inner.strerror for inner in _chain(error) if isinstance(inner, OSError))
    return next(filter(None, said), str(error))
