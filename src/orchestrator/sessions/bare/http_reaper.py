"""Listing and removing a session's things over raw HTTP, without docker-py.

Nothing but sockets: it works in a signal handler, in an exit handler and in the watchdog, and sends
many requests at once from one thread. HTTP/1.0 on purpose: the daemon then answers without chunks
and closes, so that an answer is simply everything until the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time

from .removal import KINDS, SilentError, Thing, mark_kept, own_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    Request = tuple[str, str, bytes]

_AT_ONCE = {"ssh": 4}  # sshd lets no more than ten connections begin at once
_MOST_AT_ONCE = 32
_CHUNK = 65536
_OK = (200, 204, 304, 404)  # "not found" is success: somebody else was quicker
_LISTED = 200
_FAILED = 500
_LISTS = {
    "container": "/containers/json?all=1&filters=",
    "network": "/networks?filters=",
    "volume": "/volumes?filters=",
    "image": "/images/json?filters=",
}
_REMOVALS = {"container": "?force=1&v=1", "network": "", "volume": "?force=1", "image": "?force=1"}


class HttpReaper:
    """Lists and removes everything that was created under some labels.

    Args:
        way: How the daemon is reached, as `Endpoint.way` has it.
        labels: ``name=value`` of each.
        kept: Whether what outlives its owner is listed too.
        kinds: What is listed, of `KINDS`.
        timeout: Seconds for one answer.
        until: When to stop waiting for any, on the clock of `time.monotonic`.

    Attributes:
        refused: The kinds that the daemon did not list the last time, and its reasons: a filter
            before its socket may forbid it.
        uncertain: Whether it may list them when it is asked again.
    """

    def __init__(
        self,
        way: Sequence[str],
        *labels: str,
        timeout: float,
        until: float = float("inf"),
        kept: bool = False,
        kinds: Sequence[str] = KINDS,
    ) -> None:
        self._dialer = Dialer(way)
        self._filters = _quoted(json.dumps({"label": labels}))
        self._timeout = timeout
        self._until = until
        self._kept = kept
        self._kinds = kinds
        self.refused: dict[str, str] = {}
        self.uncertain = False

    def listed(self) -> list[Thing]:
        """What is there now; `SilentError` when the daemon lists nothing."""
        answers = self._ask(*(("GET", _LISTS[kind] + self._filters, b"") for kind in self._kinds))
        things: list[Thing] = []
        self.refused = {}
        self.uncertain = False
        for kind, answer in zip(self._kinds, answers, strict=True):
            if answer.status and answer.status != _LISTED:
                self.refused[kind] = _reason(answer)
                self.uncertain = self.uncertain or answer.status >= _FAILED
                continue
            if not answer.status:
                raise SilentError(_reason(answer))
            try:
                things += _things(kind, json.loads(answer.body))
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise SilentError(f"its answer cannot be understood: {error!r}") from None
        if len(self.refused) == len(self._kinds):
            raise SilentError("; ".join(self.refused.values()))
        mark_kept(things)
        return [thing for thing in things if self._kept or not thing.kept]

    def remove(self, things: Iterable[Thing]) -> None:
        """Try once; each has its ``reason`` then. `SilentError` when nothing is answered."""
        rest = list(things)
        self._delete([thing for thing in rest if thing.kind == "container"])
        rest = [thing for thing in rest if thing.kind != "container"]
        self._delete(rest)
        stuck = [thing for thing in rest if thing.kind == "network" and thing.reason]
        if stuck:
            self._free(stuck)
            self._delete(stuck)

    def _delete(self, things: Sequence[Thing]) -> None:
        answers = self._ask(*(("DELETE", _path(thing), b"") for thing in things))
        for thing, answer in zip(things, answers, strict=True):
            thing.reason = "" if answer.status in _OK else _reason(answer)
        if things and not any(answer.status for answer in answers):
            raise SilentError(things[0].reason)

    def _free(self, networks: Sequence[Thing]) -> None:
        """Disconnect by force whoever is on these networks: they are ours, whatever joined them."""
        inspected = self._ask(*(("GET", f"/networks/{network.id}", b"") for network in networks))
        leave: list[Request] = []
        for network, answer in zip(networks, inspected, strict=True):
            if answer.status in _OK:
                for key, endpoint in (json.loads(answer.body).get("Containers") or {}).items():
                    # An endpoint whose container is gone is listed as "ep-…", known by name only.
                    who = endpoint.get("Name") if key.startswith("ep-") else key
                    body = json.dumps({"Container": who, "Force": True}).encode()
                    leave.append(("POST", f"/networks/{network.id}/disconnect", body))
        self._ask(*leave)

    def _ask(self, *requests: Request) -> list[Answer]:
        deadline = min(time.monotonic() + self._timeout, self._until)
        return exchange(self._dialer, requests, deadline=deadline)


class KnownThings(HttpReaper):
    """A reaper of things that are known, each gone when its removal succeeded: ``gone`` is told."""

    def __init__(
        self,
        way: Sequence[str],
        things: Iterable[Thing],
        *,
        timeout: float,
        gone: Callable[[Thing], object] = bool,
    ) -> None:
        super().__init__(way, timeout=timeout)
        self._left = list(things)
        self._gone = gone

    def listed(self) -> list[Thing]:
        """What is not known to be gone."""
        return self._left.copy()

    def _delete(self, things: Sequence[Thing]) -> None:
        super()._delete(things)
        for thing in things:
            if not thing.reason and thing in self._left:
                self._left.remove(thing)
                self._gone(thing)


def _path(thing: Thing) -> str:
    name = _quoted(thing.id) if thing.kind == "volume" else thing.id
    return f"/{thing.kind}s/{name}{_REMOVALS[thing.kind]}"


def _things(kind: str, found: Any) -> Iterator[Thing]:
    """What is ours in a listing; nothing at all may be null instead of an empty list."""
    for row in (found["Volumes"] if kind == "volume" else found) or ():
        labels = row.get("Labels") or {}
        names: list[str] = (row.get("RepoTags") if kind == "image" else row.get("Names")) or []
        if kind == "container":
            names = [name.lstrip("/") for name in names]
        elif kind != "image":
            names = [row["Name"]]
        name = own_name(kind, names, labels)
        if name is not None:
            thing = Thing(kind, row["Id"] if kind in ("container", "network") else name, name)
            thing.labels = labels
            if kind == "container":
                thing.status, thing.image = row["State"], row["Image"]
            yield thing


def _reason(answer: Answer) -> str:
    text = answer.body.decode(errors="replace").strip()
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text or f"status {answer.status}"


def _quoted(text: str) -> str:
    """Percent-encode (urllib.parse costs the watchdog 0.5 MiB)."""
    safe = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._~"
    return "".join(chr(byte) if chr(byte) in safe else f"%{byte:02X}" for byte in text.encode())


class Dialer:
    """Opens connections to a daemon, on a socket, in TLS, or through ssh.

    Args:
        way: ``unix PATH``, ``tcp HOST PORT``, ``tls HOST PORT CA CERT KEY VERIFY`` (empty for what
            there is not) or ``ssh ARGUMENTS``, a command that speaks to the daemon on its stdin
            and stdout. ``proxy VARIABLE`` before it names a web proxy to go through.
    """

    def __init__(self, way: Sequence[str]) -> None:
        proxy = os.environ.get(way[1], "") if way[0] == "proxy" else ""
        self.kind, *self._rest = way[2:] if way[0] == "proxy" else way
        self._proxy: Any = None
        self._login = ""
        if proxy:
            from base64 import b64encode
            from urllib.parse import unquote, urlsplit

            self._proxy = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            if self._proxy.username:
                login = unquote(f"{self._proxy.username}:{self._proxy.password or ''}")
                self._login = f"Proxy-Authorization: Basic {b64encode(login.encode()).decode()}\r\n"
        self._tls: Any = None
        if self.kind == "tls":  # imported now: at the owner's death the files may be gone
            import ssl

            _host, _port, ca, cert, key, verify = self._rest
            self._tls = ssl.create_default_context(cafile=ca or None)
            self._tls.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as the engine's client
            if not verify:
                self._tls.check_hostname = False
                self._tls.verify_mode = ssl.CERT_NONE
            if cert:
                self._tls.load_cert_chain(cert, key, password=bytes)  # nobody is asked for one

    def connect(self, timeout: float) -> Connection:
        """A connection, whose every operation then has this many seconds."""
        if self.kind == "ssh":
            return self._through_a_command(timeout)
        if self.kind == "unix":
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.settimeout(timeout)
                connection.connect(self._rest[0])
            except BaseException:
                connection.close()
                raise
            return Connection(connection)
        host, port, *_ = self._rest
        where = (self._proxy.hostname, self._proxy.port or 80) if self._proxy else (host, int(port))
        connection = socket.create_connection(where, timeout)
        if self._tls is not None:
            if self._proxy:
                self._tunnel(connection)
            connection = self._tls.wrap_socket(connection, server_hostname=host)
        return Connection(connection)

    def head(self, method: str, path: str) -> str:
        """The first lines of a request; a proxy is told whom it is for, except within TLS."""
        login = ""
        if self._proxy and self._tls is None:
            path, login = f"http://{self._authority}{path}", self._login
        return f"{method} {path} HTTP/1.0\r\nHost: docker\r\n{login}"

    @property
    def _authority(self) -> str:
        """Host and port as a proxy reads them: an IPv6 address stands in brackets."""
        host, port, *_ = self._rest
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _tunnel(self, connection: socket.socket) -> None:
        """Have the proxy let bytes through."""
        head = f"CONNECT {self._authority} HTTP/1.0\r\n{self._login}\r\n"
        connection.sendall(head.encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):  # not a byte more: what follows is TLS
            if not (byte := connection.recv(1)):
                raise OSError("the web proxy has hung up")
            answer += byte
        if answer.split()[1:2] != [b"200"]:
            raise OSError(f"the web proxy answers: {answer.decode(errors='replace').strip()}")

    def _through_a_command(self, timeout: float) -> Connection:
        """Not by `subprocess`, which costs the watchdog memory, and Python 3.12 at exit refuses."""
        ours, theirs = socket.socketpair()
        ours.settimeout(timeout)
        with theirs:
            pid = os.posix_spawnp(
                self.kind,
                [self.kind, *self._rest],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), 1),
                ],
                setsigmask=[signal.SIGINT],  # a Ctrl-C is for this process
            )
        return Connection(ours, pid)


class Connection:
    """One connection, and the process that it goes through, if any."""

    def __init__(self, connection: socket.socket, pid: int = 0) -> None:
        self.socket = connection
        self._pid = pid

    def close(self) -> None:
        """Close it, and end the process."""
        self.socket.close()
        if self._pid:
            with contextlib.suppress(OSError):
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)


class Answer:
    """One answer of the daemon; status 0 means that none came, and the body says why."""

    __slots__ = ("body", "status")

    def __init__(self) -> None:
        self.status = 0
        self.body = b""


def exchange(dialer: Dialer, requests: Sequence[Request], *, deadline: float) -> list[Answer]:
    """Send every request on a connection of its own; the answers until a moment, in order."""
    at_once = _AT_ONCE.get(dialer.kind, _MOST_AT_ONCE)
    answers: list[Answer] = []
    for start in range(0, len(requests), at_once):
        answers += _exchange(dialer, requests[start : start + at_once], deadline)
    return answers


def _exchange(dialer: Dialer, requests: Sequence[Request], deadline: float) -> list[Answer]:
    answers = [Answer() for _ in requests]
    waiting: dict[int, tuple[Connection, Answer]] = {}
    poller = select.poll()
    try:
        for request, answer in zip(requests, answers, strict=True):
            try:
                connection = _send(dialer, request, deadline)
            except OSError as error:
                answer.body = str(error).encode()
                continue
            waiting[connection.socket.fileno()] = (connection, answer)
            poller.register(connection.socket, select.POLLIN)
        while waiting and (left := deadline - time.monotonic()) > 0:
            for fd, _event in poller.poll(left * 1000):
                if _receive(waiting[fd][0].socket, waiting[fd][1]):
                    poller.unregister(fd)
                    waiting.pop(fd)[0].close()
    finally:
        for connection, answer in waiting.values():
            connection.close()
            answer.body = b"no answer in time"
    return answers


def _send(dialer: Dialer, request: Request, deadline: float) -> Connection:
    method, path, body = request
    connection = dialer.connect(max(0.001, deadline - time.monotonic()))
    try:
        head = dialer.head(method, path)
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        connection.socket.sendall(f"{head}\r\n".encode() + body)
    except BaseException:
        connection.close()
        raise
    return connection


def _receive(connection: socket.socket, answer: Answer) -> bool:
    """Read what is there; True when it was the end."""
    pending = getattr(connection, "pending", int)  # bytes that TLS holds, which no poll would see
    try:
        while data := connection.recv(_CHUNK):
            answer.body += data
            if not pending():
                return False
    except OSError as error:
        answer.body = str(error).encode()
        return True
    head, _, body = answer.body.partition(b"\r\n\r\n")
    try:
        answer.status = int(head.split(None, 2)[1])
    except (IndexError, ValueError):
        answer.body = b"the answer was cut off"
    else:
        answer.body = body
    return True
