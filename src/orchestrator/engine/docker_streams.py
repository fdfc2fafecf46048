"""Long answers of the daemon, read piece by piece with a deadline for each piece.

docker-py's own `pull` waits for ever when a registry stalls, and its `get_image` takes one image;
both are a plain request, so this file makes them through docker-py's session.
"""

from __future__ import annotations

import contextlib
import json
import struct
from typing import TYPE_CHECKING, Any, Final

import docker.auth
import docker.errors
import requests.exceptions
import urllib3.exceptions

from orchestrator.engine.registry_trust import credentials_failed
from orchestrator.errors import EngineError

_FRAME: Final = struct.Struct("!B3xI")  # the stream, and how many bytes follow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@contextlib.contextmanager
def open_stream(client: Any, method: str, path: str, **options: Any) -> Iterator[requests.Response]:
    """Make a request whose answer is a stream; the client's timeout counts for each piece."""
    url = f"{client.base_url}/v{client.api_version}{path}"
    with (
        _stalls_as_timeouts(),
        client.request(method, url, stream=True, timeout=client.timeout, **options) as response,
    ):
        try:
            response.raise_for_status()
        except requests.exceptions.HTTPError as error:
            docker.errors.create_api_error_from_http_exception(error)
        yield response


def read_pieces(response: requests.Response, size: int) -> Iterator[bytes]:
    """The bytes of an answer, in pieces of this size.

    `iter_content` would hand out the daemon's own pieces of 32 KiB at a third of the speed.
    """
    try:
        while piece := response.raw.read(size):
            yield piece
    except urllib3.exceptions.ReadTimeoutError as error:
        raise requests.exceptions.ReadTimeout(error) from error
    except urllib3.exceptions.HTTPError as error:
        raise requests.exceptions.ConnectionError(error) from error


def read_frames(response: requests.Response) -> Iterator[bytes]:
    """What a process says, stdout and stderr in order, without the daemon's frames around it."""
    for head in read_pieces(response, _FRAME.size):
        if len(head) < _FRAME.size:
            return
        _, size = _FRAME.unpack(head)
        yield next(read_pieces(response, size), b"") if size else b""


def read_steps(response: requests.Response, doing: str) -> Iterator[Mapping[str, Any]]:
    """The JSON objects of an answer.

    Raises:
        EngineError: One of them reports an error.
    """
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


def registry_auth(client: Any, registry: str) -> dict[str, str]:
    """The header with the credentials that docker's own configuration has for a registry.

    Raises:
        EngineError: A credential helper failed.
    """
    try:
        header = docker.auth.get_config_header(client, registry)
    except docker.errors.DockerException as error:
        raise credentials_failed(registry, error) from error
    return {"X-Registry-Auth": header.decode()} if header else {}


@contextlib.contextmanager
def _stalls_as_timeouts() -> Iterator[None]:
    """Requests reports a stall in the middle of an answer as a lost connection; it is a timeout."""
    try:
        yield
    except requests.exceptions.ConnectionError as error:
        if error.args and isinstance(error.args[0], urllib3.exceptions.ReadTimeoutError):
            raise requests.exceptions.ReadTimeout(*error.args) from error
        raise
