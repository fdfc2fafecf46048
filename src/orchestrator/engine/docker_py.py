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
from pathlib import Path
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
    import docker.tls
    import docker.transport.basehttpadapter
    import docker.types
    import docker.utils
    import docker.utils.build
finally:
    if _ours:
        del sys.modules[_SSH]

__all__ = ["Client", "Tls", "docker"]

_OLDEST: Final = docker.constants.MINIMUM_DOCKER_API_VERSION
_PING: Final = b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n"
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
        super().__init__(
            base_url="tcp://docker:1" if ssh else endpoint.url,
            # With one given, docker-py asks nothing before all below is in place.
            version=about.get("ApiVersion", _OLDEST),
            timeout=timeout,
            tls=Tls(endpoint) if endpoint.secure else False,
        )
        self.trust_env = False
        if ssh:
            self.mount("http://", _ProgramAdapter(endpoint.way))
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


class Tls(docker.tls.TLSConfig):
    """TLS as the docker command has it: a certificate of one's own, and an authority, or neither.

    Without the strictness (Python 3.13's) about what only newer authorities write.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(verify=endpoint.verify)
        folder = endpoint.tls or Path()
        *_, ca, cert, key, _verify = endpoint.way
        if bool(cert) != bool(key):
            lacking = "key.pem" if cert else "cert.pem"
            raise EngineError(f"There is {cert or key}, but beside it no {lacking}")
        try:
            self.context = ssl.create_default_context(cafile=(endpoint.verify and ca) or None)
            self.context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            if cert:
                # A password is asked for nowhere: there may be no terminal.
                self.context.load_cert_chain(cert, key, password=lambda: b"")
        except OSError as error:  # ssl.SSLError is one
            raise EngineError(
                f"The certificates in {folder}, for the Docker daemon at {endpoint.url}, cannot be "
                f"used; they may be none, or not belong together: {error}"
            ) from error
        if not endpoint.verify:
            self.context.check_hostname = False
            self.context.verify_mode = ssl.CERT_NONE
            _warn_once(
                f"The certificate of the Docker daemon at {endpoint.url} is not checked, as "
                f"{endpoint.origin or 'it'} has it: whoever answers there is believed"
            )

    def configure_client(self, client: Any) -> None:
        """Have it speak so."""
        client.verify = self.verify
        client.mount("https://", _TlsAdapter(self.context))


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
        self._pool = _Pool(argv)

    def get_connection(self, url: Any, proxies: Any = None) -> Any:  # noqa: ARG002
        """The connections to that daemon, whatever is asked for."""
        return self._pool

    def request_url(self, request: Any, proxies: Any) -> Any:  # noqa: ARG002
        """No proxy is on the way."""
        return request.path_url

    def close(self) -> None:
        """End the programs."""
        self._pool.close()
        super().close()


class _Pool(urllib3.connectionpool.HTTPConnectionPool):
    def __init__(self, argv: Sequence[str]) -> None:
        super().__init__("docker")
        self._argv = argv

    def _new_conn(self) -> Any:
        return _Connection(self._argv)


class _Connection(urllib3.connection.HTTPConnection):
    def __init__(self, argv: Sequence[str]) -> None:
        super().__init__("docker")
        self._argv = argv

    def connect(self) -> None:
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
                if isinstance(error, (OSError, http.client.HTTPException)) and not isinstance(
                    error, TimeoutError
                ):
                    said.seek(0)
                    words = said.read().decode(errors="replace").strip()
                    # Two arguments: the second is what the system, or who stands for it, has said.
                    raise ConnectionRefusedError(errno.ECONNREFUSED, words or str(error)) from error
                raise
        return link

    def _real_close(self, *arguments: Any) -> None:
        super()._real_close(*arguments)  # type: ignore[misc] # what `close` comes to
        self._process.terminate()
        try:
            self._process.wait(_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
