"""docker-py as it is used here: imported without paramiko, and ``ssh://`` by the ``ssh`` program.

paramiko takes half of the import's time, and follows only a part of ``~/.ssh/config``. So
docker-py's module for such addresses is imported when the test itself uses docker-py that way.
Where docker-py has ``ssh`` run, a connection is two pipes: no deadline holds, ssh's words are lost,
and every request logs in anew. Ours is one end of a pair of sockets, as any other connection.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import importlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import urllib3.connection
import urllib3.connectionpool

if TYPE_CHECKING:
    from collections.abc import Sequence

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

__all__ = ["ProgramAdapter", "docker"]

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


class ProgramAdapter(docker.transport.basehttpadapter.BaseHTTPAdapter):
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
