"""Long answers of the daemon, read piece by piece with a deadline for each piece.

docker-py's own `pull` waits for ever when a registry stalls, and its `get_image` takes one image;
both are a plain request, so this file makes them through docker-py's session.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import select
import socket
import ssl
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import requests.exceptions
import urllib3.exceptions

from orchestrator.engine.api import short_name
from orchestrator.engine.docker_py import docker
from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from orchestrator.engine.client import ClientPool

_FRAME: Final = struct.Struct("!B3xI")  # the stream, and how many bytes follow
_PIECE: Final = 1 << 16
_ATTACHED: Final = {"Detach": False, "Tty": False}
_EXIT_POLL: Final = 0.01  # seconds between two looks at a command that closed its output
_NOT_FOUND, _CONFLICT = 404, 409
_FOLLOWED: Final = 1e6  # seconds a log may be silent
_LONGEST_LINE: Final = 1 << 20
_NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_CHECK_INTERVAL: Final = 0.1  # seconds between two looks at `stopping`


@contextlib.contextmanager
def open_stream(client: Any, method: str, path: str, **options: Any) -> Iterator[requests.Response]:
    """Make a request whose answer is a stream; the client's timeout counts for each piece."""
    url = f"{client.base_url}/v{client.api_version}{path}"
    try:
        with client.request(
            method, url, stream=True, timeout=client.timeout, **options
        ) as response:
            try:
                response.raise_for_status()
            except requests.exceptions.HTTPError as error:
                docker.errors.create_api_error_from_http_exception(error)
            yield response
    except requests.exceptions.ConnectionError as error:
        # So requests reports a stall in the middle of an answer.
        if error.args and isinstance(error.args[0], urllib3.exceptions.ReadTimeoutError):
            raise requests.exceptions.ReadTimeout(*error.args) from error
        raise


def read_pieces(response: requests.Response, size: int) -> Iterator[bytes]:
    """The bytes of an answer; `iter_content` has pieces of 32 KiB, at a third of the speed."""
    try:
        while piece := response.raw.read(size):
            yield piece
    except urllib3.exceptions.ReadTimeoutError as error:
        raise requests.exceptions.ReadTimeout(error) from error
    except urllib3.exceptions.HTTPError as error:
        raise requests.exceptions.ConnectionError(error) from error


def read_frames(pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """What a process wrote, piece by piece: 1 for stdout or 2 for stderr, and the bytes.

    The daemon puts a frame before each; pieces end anywhere.
    """
    rest = bytearray()
    for piece in pieces:
        rest += piece
        while len(rest) >= _FRAME.size:
            stream, size = _FRAME.unpack_from(rest)
            if len(rest) < _FRAME.size + size:
                break
            yield stream, bytes(rest[_FRAME.size : _FRAME.size + size])
            del rest[: _FRAME.size + size]


def run_process(
    client: Any, process: str, *, stdin: bytes | None
) -> tuple[list[tuple[int, bytes]], int]:
    """Run a command that was prepared in a container: what it wrote, and its exit code.

    docker-py's own `exec_start` waits for ever for the next piece of output.
    """
    path = f"/exec/{process}/start"
    if stdin is None:
        with open_stream(client, "POST", path, json=_ATTACHED) as response:
            pieces = list(read_frames(read_pieces(response, _PIECE)))
    else:
        pieces = list(read_frames(exchange(client, path, _ATTACHED, stdin)))
    deadline = time.monotonic() + client.timeout
    while (found := client.exec_inspect(process))["Running"]:  # the daemon knows a little later
        if time.monotonic() > deadline:
            raise EngineError(f"The command has closed its output, but runs {client.timeout} s on")
        time.sleep(_EXIT_POLL)
    return pieces, int(found["ExitCode"])


def exchange(client: Any, path: str, body: Mapping[str, Any], data: bytes) -> Iterator[bytes]:
    """Send a program its input while its output is read: both may be larger than any buffer.

    The daemon hands over the connection. One thread does both, for TLS allows no second one.
    """
    headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
    with open_stream(client, "POST", path, json=body, headers=headers) as response:
        http: Any = response.raw._fp  # noqa: SLF001 - as docker-py itself gets at the connection
        reader = http.fp
        yield from _both_ways(reader, reader.raw._sock, data, seconds=client.timeout)  # noqa: SLF001


def _both_ways(reader: Any, link: socket.socket, data: bytes, *, seconds: float) -> Iterator[bytes]:
    left: memoryview | None = memoryview(data)
    link.settimeout(0)
    with contextlib.suppress(*_NOT_NOW):
        early = reader.peek()  # what came together with the answer's head
        if early:
            yield early
    while True:
        moved = False
        with contextlib.suppress(*_NOT_NOW):
            try:
                piece = link.recv(_PIECE)
            except ConnectionResetError:  # it ended with input that it did not read
                piece = b""
            if not piece:
                return
            yield piece
            moved = True
        if left is not None:
            with contextlib.suppress(*_NOT_NOW):
                try:
                    left = left[link.send(left[:_PIECE]) :] if left else left
                except (BrokenPipeError, ConnectionResetError):
                    left = left[:0]
                moved = True
            if not left:
                with contextlib.suppress(OSError):
                    # Of the plain socket: TLS in Python knows no end of one direction only.
                    socket.socket.shutdown(link, socket.SHUT_WR)
                left = None
        if not moved and not any(select.select([link], [link] if left else [], [], seconds)):
            raise requests.exceptions.ReadTimeout


def read_at_once(response: requests.Response) -> Iterator[bytes]:
    """The bytes of an answer as they come.

    By http.client's own way: each line of a log is a chunk, and costs ten times as much in
    urllib3's `stream`, which the daemon outruns.
    """
    answer: Any = response.raw._fp  # noqa: SLF001 - as docker-py does
    try:
        while piece := answer.read1(_PIECE):
            yield piece
    except (OSError, ValueError, AttributeError, http.client.HTTPException) as error:
        raise requests.exceptions.ConnectionError(error) from error


def read_steps(response: requests.Response, doing: str) -> Iterator[Mapping[str, Any]]:
    """The JSON objects of an answer, one a line; one that reports an error is an `EngineError`."""
    for line in response.iter_lines(chunk_size=None):
        if not line.strip():
            continue
        try:
            step = json.loads(line)
        except ValueError as error:
            raise EngineError(
                f"The Docker daemon failed to {doing}: its answer cannot be read: {line[:200]!r}"
            ) from error
        if "error" in step:
            raise EngineError(
                f"The Docker daemon failed to {doing}: {step['error']}",
                status=response.status_code,  # it did answer, and it is done
            )
        yield step


def read_lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Text, line by line, without the ends of the lines; one without end is cut into long ones."""
    rest = bytearray()
    for piece in pieces:
        *lines, last = piece.split(b"\n")
        for line in lines:
            yield (rest + line).decode(errors="replace").rstrip("\r")
            rest.clear()
        rest += last
        if len(rest) > _LONGEST_LINE:
            yield rest.decode(errors="replace")
            rest.clear()
    if rest:
        yield rest.decode(errors="replace")


def read_log(pool: ClientPool, container: str, *, cut: Cut, **asked: float) -> Iterator[str]:
    """Each line of a container's log, until it ends or is gone."""
    doing, path = f"read the log of {short_name(container)}", f"/containers/{container}/logs"
    params = {"stdout": 1, "stderr": 1, **asked}
    try:
        with pool.client(doing, timeout=_FOLLOWED) as client:
            terminal = client.inspect_container(container)["Config"]["Tty"]
            with open_stream(client, "GET", path, params=params) as response, cut.reading(response):
                pieces = read_at_once(response)
                framed = (text for _, text in read_frames(pieces))
                yield from read_lines(pieces if terminal else framed)
    except EngineError as error:
        if error.status not in (_NOT_FOUND, _CONFLICT):
            raise


def read_until_stopped(
    pool: ClientPool,
    doing: str,
    path: str,
    *,
    stopping: threading.Event | None,
    timeout: float | None = None,
    **options: Any,
) -> Iterator[Mapping[str, Any]]:
    """The steps of a request to their end, or until `stopping` is set or the caller reads no more.

    A thread that waits for the next piece cannot see that nobody wants the rest any more. So
    another one does the waiting, and the connection is cut: the daemon cancels a pull or a build
    whose client is gone. When it was stopped, that is an EngineError.
    """
    received: queue.SimpleQueue[Mapping[str, Any] | BaseException | None] = queue.SimpleQueue()
    stopping, cut = stopping or threading.Event(), Cut()

    def receive() -> None:
        try:
            with (
                pool.client(doing, timeout=timeout) as client,
                open_stream(client, "POST", path, **options) as response,
                cut.reading(response),
            ):
                for step in read_steps(response, doing):
                    received.put(step)
            received.put(None)
        except BaseException as error:  # noqa: BLE001  # raised where it is waited for
            received.put(error)

    if not stopping.is_set():
        # A daemon thread: before an answer begins nothing can be cut, and no exit waits for it.
        threading.Thread(target=receive, name="orchestrator-daemon", daemon=True).start()
    try:
        while not stopping.is_set():
            with contextlib.suppress(queue.Empty):
                step = received.get(timeout=_CHECK_INTERVAL)
                if step is None:
                    return
                if isinstance(step, BaseException):
                    raise step
                yield step
        raise EngineError(f"Stopped waiting for the Docker daemon to {doing}")
    finally:
        cut.now()


class Cut:
    """Cuts the connection of an answer that another thread reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._response: requests.Response | None = None
        self._wanted = False

    @contextlib.contextmanager
    def reading(self, response: requests.Response) -> Iterator[None]:
        """Stands around the reading."""
        with self._lock:
            self._response = response
        if self._wanted:
            self.now()
        try:
            yield
        finally:
            with self._lock:
                self._response = None

    def now(self) -> None:
        """At once while an answer is read, else when one begins."""
        # There is no socket at the end of an answer.
        with self._lock, contextlib.suppress(OSError, ValueError, AttributeError):
            self._wanted = True
            if self._response is not None:
                number = self._response.raw.fileno()
                with socket.fromfd(number, socket.AF_UNIX, socket.SOCK_STREAM) as same:
                    same.shutdown(socket.SHUT_RDWR)
