"""Images, through docker-py."""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any, Final

import docker.auth

from orchestrator.engine.docker_containers import NOT_FOUND
from orchestrator.engine.docker_stopping import Line, until_stopped
from orchestrator.engine.docker_streams import open_stream, read_pieces, read_steps, registry_auth
from orchestrator.engine.image_info import image_info
from orchestrator.engine.labels import NAME
from orchestrator.engine.port import PullProgress
from orchestrator.errors import EngineError

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from orchestrator.engine.docker_client import ClientPool
    from orchestrator.engine.port import ImageInfo

# The daemon unpacks every layer into a temporary folder before it sends the first byte.
SAVE_TIMEOUT: Final = 900.0  # seconds
PIECE: Final = 1 << 20  # bytes


class DockerImages:
    """The part of `DockerEngine` that concerns images."""

    _pool: ClientPool

    def image(self, reference: str, /) -> ImageInfo | None:
        """The image under a reference, digest or id, or None when it is not on this machine."""
        try:
            with self._pool.client(f"inspect image {reference}") as client:
                found = client.inspect_image(reference)
        except EngineError as error:
            if error.status == NOT_FOUND:
                return None
            raise
        return image_info(found)

    def pull_image(
        self,
        reference: str,
        /,
        *,
        platform: str | None = None,
        stopping: threading.Event | None = None,
    ) -> Iterator[PullProgress]:
        """Pull an image; the work happens while the steps are read.

        The daemon has the engine's timeout for each step: a registry that stalls is an error. When
        ``stopping`` is set, or nobody reads on, the daemon gives up too.
        """
        doing = f"pull {reference}"
        name, tag = _split(reference)
        parameters = {"fromImage": name, "tag": tag}
        if platform:
            parameters["platform"] = platform
        line = Line(doing)

        def steps() -> Iterator[PullProgress]:
            with self._pool.client(doing) as client:
                headers = registry_auth(client, _registry(name))
                opened = open_stream(
                    client, "POST", "/images/create", params=parameters, headers=headers
                )
                with opened as response, line.carrying(response):
                    for step in read_steps(response, doing):
                        yield _progress(step)

        return until_stopped(steps(), line, stopping=stopping)

    def index_digest(self, reference: str, /) -> str:
        """Have the daemon ask the registry what a reference stands for now."""
        with self._pool.client(f"ask the registry for {reference}") as client:
            return str(client.inspect_distribution(reference)["Descriptor"]["digest"])

    def tag_image(self, reference: str, /, *, as_reference: str) -> None:
        """Give an image another name."""
        repository, tag = _split(as_reference)
        with self._pool.client(f"tag {reference} as {as_reference}") as client:
            client.tag(reference, repository, tag)

    def save_images(self, names: Sequence[str], /) -> Iterator[bytes]:
        """The images as one tar, piece by piece; layers they share are in it once."""
        with (
            self._pool.client(f"save {', '.join(names)}", timeout=SAVE_TIMEOUT) as client,
            open_stream(client, "GET", "/images/get", params={"names": names}) as response,
        ):
            yield from read_pieces(response, PIECE)

    def load_images(self, archive: Iterable[bytes], /) -> Iterator[str]:
        """Load a tar of images; the work happens while the daemon's remarks are read.

        When the archive raises, the daemon gets no end of it and loads nothing.
        """
        doing = "load images"
        with (
            self._pool.client(doing, timeout=SAVE_TIMEOUT) as client,
            open_stream(
                client,
                "POST",
                "/images/load",
                headers={"Content-Type": "application/x-tar"},
                data=iter(archive),  # requests takes a list for a form
            ) as response,
        ):
            for step in read_steps(response, doing):
                if text := step.get("stream", "").strip():
                    yield text

    def build_image(
        self,
        context: IO[bytes],
        /,
        *,
        name: str,
        dockerfile: str,
        args: Mapping[str, str],
        target: str | None,
        labels: Mapping[str, str],
        stopping: threading.Event | None = None,
    ) -> Iterator[str]:
        """Build an image from a tar; the work happens while what the builder says is read.

        When ``stopping`` is set, or nobody reads on, the daemon gives up too.
        """
        doing = f"build {name}"
        parameters = {
            "t": name,
            "dockerfile": dockerfile,
            "buildargs": json.dumps(dict(args)),
            "labels": json.dumps({**labels, NAME: name}),
            "rm": True,
            "forcerm": True,
            **({"target": target} if target else {}),
        }
        line = Line(doing)

        def steps() -> Iterator[str]:
            with self._pool.client(doing, timeout=SAVE_TIMEOUT) as client:
                opened = open_stream(
                    client,
                    "POST",
                    "/build",
                    params=parameters,
                    headers={"Content-Type": "application/x-tar"},
                    data=context,
                )
                with opened as response, line.carrying(response):
                    for step in read_steps(response, doing):
                        if text := step.get("stream", "").strip():
                            yield text

        return until_stopped(steps(), line, stopping=stopping)

    def remove_image(self, image: str, /) -> None:
        """Remove an image."""
        try:
            with self._pool.client(f"remove image {image}") as client:
                client.remove_image(image, force=True)
        except EngineError as error:
            if error.status != NOT_FOUND:
                raise


def _split(reference: str) -> tuple[str, str]:
    """Name, and tag or digest; a colon before the last slash belongs to a port."""
    name, at, digest = reference.partition("@")
    if at:
        return name, digest
    head, slash, last = reference.rpartition("/")
    last, _, tag = last.partition(":")
    return f"{head}{slash}{last}", tag or "latest"


def _registry(name: str) -> str:
    registry, _ = docker.auth.resolve_repository_name(name)
    return str(registry)


def _progress(step: Mapping[str, Any]) -> PullProgress:
    detail = step.get("progressDetail") or {}
    return PullProgress(
        layer=step.get("id", ""),
        status=step.get("status", ""),
        current=detail.get("current", 0),
        total=detail.get("total", 0),
    )
