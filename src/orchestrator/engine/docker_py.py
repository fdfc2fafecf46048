"""docker-py as it is used here: imported without paramiko, and ``ssh://`` by the ``ssh`` program.

paramiko takes half of the import's time, and follows only a part of ``~/.ssh/config``. So
docker-py's module for such addresses is imported when the test itself uses docker-py that way.
Where docker-py has ``ssh`` run, a connection is two pipes: no deadline holds, ssh's words are lost,
and every request logs in anew. Ours is one end of a pair of sockets, as any other connection.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import http.client
import importlib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any, Final

import requests.adapters
import urllib3.connection
import urllib3.connectionpool

from orchestrator.errors import EngineError, EngineWarning

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.engine.endpoint import Endpoint

_SSH: Final = "docker.transport.sshconn"

_ours: Final = "docker" not in sys.modules
if _ours:
    sys.modules[_SSH] = None  # type: ignore[assignment] # importing it fails, which docker-py expects
try:
    import docker
    import docker.auth
    import docker.constants
    import docker.errors
    import docker.transport.basehttpadapter
    import docker.types
    import docker.utils
    import docker.utils.build
finally:
    if _ours:
        del sys.modules[_SSH]

__all__ = ["Client", "docker", "tls_context"]

_OLDEST: Final = docker.constants.MINIMUM_DOCKER_API_VERSION
_PING: Final = b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n"
_BROKEN: Final = (OSError, http.client.HTTPException)
_END: Final = 1.0  # seconds a program has to end by itself
# sshd turns away who comes while ten others log in; then nothing was asked yet.
_LOGGING_IN: Final = threading.BoundedSemaphore(4)
_PAUSES: Final = (0.2, 0.5, 1.0, 2.0)  # seconds before it is tried again
_TURNED_AWAY: Final = "kex_exchange_identification"


def _adapter(*arguments: Any, **options: Any) -> Any:
    """What docker-py makes for an address ``ssh://``, where the test itself uses it."""
    try:
        module = importlib.import_module(_SSH)
    except ImportError as error:
        raise NameError from error  # so docker-py knows that paramiko is not installed, and says so
    return module.SSHHTTPAdapter(*arguments, **options)


for _module in map(importlib.import_module, ("docker.transport", "docker.api.client")):
    if not hasattr(_module, "SSHHTTPAdapter"):
        vars(_module)["SSHHTTPAdapter"] = _adapter


class Client(docker.APIClient):
    """docker-py's client, which finds its way as the docker command does.

    Left to itself, requests asks the environment, which speaks of the web: a proxy for this
    machine's own daemon, a .netrc's password for it, and authorities (REQUESTS_CA_BUNDLE) that
    overrule those set for a session (requests issue 3829), so that no TLS daemon can be verified.
    """

    def __init__(self, endpoint: Endpoint, *, about: Mapping[str, Any], timeout: int) -> None:
        ssh = endpoint.url.startswith("ssh:")
        url = "tcp://docker:1" if ssh else endpoint.url
        super().__init__(
            base_url=url.replace("tcp:", "https:", 1) if endpoint.secure else url,
            # With one given, docker-py asks nothing before all below is in place.
            version=about.get("ApiVersion", _OLDEST),
            timeout=timeout,
        )
        self.trust_env = False
        if ssh:
            self.mount("http://", _ProgramAdapter(endpoint.way))
        if endpoint.secure:
            self.verify = endpoint.verify
            self.mount("https://", _TlsAdapter(tls_context(endpoint)))
        if endpoint.proxy:
            self.proxies = dict.fromkeys(("http", "https"), endpoint.proxy[1])
        try:
            self.about = about or self.version(api_version=False)
            self._version = _usable(self.about["ApiVersion"])
        except docker.errors.APIError as error:  # by whoever is there, of whom nothing is known yet
            self.close()
            raise docker.errors.DockerException(str(error)) from error
        except BaseException:
            self.close()
            raise


def _usable(version: str) -> str:
    if docker.utils.version_lt(version, _OLDEST):
        raise docker.errors.InvalidVersion(f"its API {version} is older than {_OLDEST}")
    return version


def tls_context(endpoint: Endpoint) -> ssl.SSLContext:
    """TLS as the docker command has it: a certificate of one's own, and an authority, or neither.

    Without the strictness (Python 3.13's) about what only newer authorities write.
    """
    *_, ca, cert, key, _verify = endpoint.way
    if bool(cert) != bool(key):
        lacking = "key.pem" if cert else "cert.pem"
        raise EngineError(f"There is {cert or key}, but beside it no {lacking}")
    try:
        context = ssl.create_default_context(cafile=(endpoint.verify and ca) or None)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if cert:
            # A password is asked for nowhere: there may be no terminal.
            context.load_cert_chain(cert, key, password=lambda: b"")
    except OSError as error:  # ssl.SSLError is one
        raise EngineError(
            f"The certificates in {endpoint.tls or '.'}, for the Docker daemon at {endpoint.url}, "
            f"cannot be used; they may be none, or not belong together: {error}"
        ) from error
    if not endpoint.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        _warn_once(
            f"The certificate of the Docker daemon at {endpoint.url} is not checked, as "
            f"{endpoint.origin or 'it'} has it: whoever answers there is believed"
        )
    return context


@functools.cache
def _warn_once(text: str) -> None:
    warnings.warn(text, EngineWarning, stacklevel=2)


class _TlsAdapter(requests.adapters.HTTPAdapter):
    """Speaks TLS of one context; all else is said of certificates by that."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> Any:
        """Connections directly to the daemon."""
        super().init_poolmanager(*arguments, ssl_context=self._context, **options)
        self.poolmanager.pool_classes_by_scheme = {"https": _TlsPool}

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        """Connections by way of a proxy."""
        return super().proxy_manager_for(*arguments, ssl_context=self._context, **options)

    def cert_verify(self, *_arguments: Any) -> None:
        """Add no authorities of the web."""


class _TlsPool(urllib3.connectionpool.HTTPSConnectionPool):
    def _validate_conn(self, conn: Any) -> None:
        """Connect; that nothing is verified was told once, and not at each request."""
        if conn.sock is None:
            conn.connect()


class _ProgramAdapter(docker.transport.basehttpadapter.BaseHTTPAdapter):
    """Requests to a daemon that a program speaks to on its stdin and stdout."""

    def __init__(self, argv: Sequence[str]) -> None:
        super().__init__()
        self._pool = urllib3.connectionpool.HTTPConnectionPool("docker")
        self._pool.ConnectionCls = functools.partial(_Connection, argv)  # type: ignore[assignment]

    def get_connection(self, url: Any, proxies: Any = None) -> Any:  # noqa: ARG002
        """The connections to that daemon, whatever is asked for."""
        return self._pool

    def close(self) -> None:
        """End the programs."""
        self._pool.close()
        super().close()


class _Connection(urllib3.connection.HTTPConnection):
    def __init__(self, argv: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self._argv = argv

    def connect(self) -> None:
        """Start the program, again when sshd turns it away."""
        with _LOGGING_IN:
            for pause in (*_PAUSES, None):
                try:
                    self.sock = _Program.start(self._argv, timeout=self.timeout)
                except ConnectionRefusedError as error:
                    if pause is None or _TURNED_AWAY not in str(error):
                        raise
                    time.sleep(pause)
                else:
                    return


class _Program(socket.socket):
    """The near end of a program's stdin and stdout; when it is closed, the program ends."""

    _process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, argv: Sequence[str], *, timeout: float | None) -> _Program:
        """Start it, and have the daemon answer once: then a request finds it connected.

        Raises:
            ConnectionRefusedError: It ended; with what it wrote to stderr.
        """
        ours, theirs = socket.socketpair()
        said = tempfile.TemporaryFile()  # noqa: SIM115 - it is read below, or never
        with ours, theirs, said:
            # A session of its own: Ctrl-C is for this process, and nobody is asked for a password.
            far = theirs.fileno()
            process = subprocess.Popen(
                argv, stdin=far, stdout=far, stderr=said, start_new_session=True
            )
            theirs.close()
            link = cls(fileno=ours.detach())
            link._process = process
            try:
                link.settimeout(timeout)
                link.sendall(_PING)
                with http.client.HTTPResponse(link) as answer:
                    answer.begin()
                    answer.read()
            except BaseException as error:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_END)
                link.close()
                if isinstance(error, TimeoutError) or not isinstance(error, _BROKEN):
                    raise
                said.seek(0)
                words = said.read().decode(errors="replace").strip()
                # Two arguments: the second is what the system, or who stands for it, has said.
                raise ConnectionRefusedError(errno.ECONNREFUSED, words or str(error)) from error
        return link

    def _real_close(self, *arguments: Any) -> None:
        super()._real_close(*arguments)  # type: ignore[misc] # what `close` comes to
        self._process.terminate()
        try:
            self._process.wait(_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
