"""The images of a daemon, and docker's credentials for registries, through docker-py."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Final

from orchestrator.engine.api import IgnoreMissing, ImageInfo, Label, PullProgress, image_info
from orchestrator.engine.docker_py import docker
from orchestrator.engine.streams import open_stream, read_pieces, read_steps, read_until_stopped
from orchestrator.errors import EngineError

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from orchestrator.engine.client import ClientPool

# The daemon unpacks every layer into a temporary folder before it sends the first byte.
_SAVE_TIMEOUT: Final = 900.0  # seconds
_PIECE: Final = 1 << 20  # bytes
_TAR: Final = {"Content-Type": "application/x-tar"}


class Images:
    """What can be done with images, as ``engine.images``. Every method raises `EngineError`."""

    def __init__(self, pool: ClientPool) -> None:
        self._pool = pool

    def find(self, reference: str, /) -> ImageInfo | None:
        """The image under a reference, digest or id, or None when it is not on this machine."""
        with IgnoreMissing(), self._pool.client(f"inspect image {reference}") as client:
            return image_info(client.inspect_image(reference))
        return None

    def pull(
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
        doing, (name, tag) = f"pull {reference}", docker.utils.parse_repository_tag(reference)
        parameters = {"fromImage": name, "tag": tag or "latest"}
        if platform:
            parameters["platform"] = platform
        with self._pool.client(doing) as client:
            headers = _credentials(client, name)
        for step in read_until_stopped(
            self._pool,
            doing,
            "/images/create",
            stopping=stopping,
            params=parameters,
            headers=headers,
        ):
            detail = step.get("progressDetail") or {}
            yield PullProgress(
                layer=step.get("id", ""),
                status=step.get("status", ""),
                current=detail.get("current", 0),
                total=detail.get("total", 0),
            )

    def tag(self, reference: str, /, *, as_reference: str) -> None:
        """Give an image another name."""
        repository, tag = docker.utils.parse_repository_tag(as_reference)
        with self._pool.client(f"tag {reference} as {as_reference}") as client:
            client.tag(reference, repository, tag)

    def save(self, names: Sequence[str], /) -> Iterator[bytes]:
        """The images as one tar, piece by piece; layers they share are in it once."""
        with (
            self._pool.client(f"save {', '.join(names)}", timeout=_SAVE_TIMEOUT) as client,
            open_stream(client, "GET", "/images/get", params={"names": names}) as response,
        ):
            yield from read_pieces(response, _PIECE)

    def load(self, archive: Iterable[bytes], /) -> Iterator[str]:
        """Load a tar of images; the work happens while the daemon's remarks are read.

        When the archive raises, the daemon gets no end of it and loads nothing.
        """
        doing = "load images"
        tar = iter(archive)  # requests takes a list for a form
        with (
            self._pool.client(doing, timeout=_SAVE_TIMEOUT) as client,
            open_stream(client, "POST", "/images/load", headers=_TAR, data=tar) as response,
        ):
            yield from _texts(read_steps(response, doing))

    def build(
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
        """Build an image from a tar; the work happens while the builder's output is read.

        When ``stopping`` is set, or nobody reads on, the daemon gives up too.
        """
        parameters = {
            "t": name,
            "dockerfile": dockerfile,
            "buildargs": json.dumps(dict(args)),
            "labels": json.dumps({**labels, Label.NAME: name}),
            "rm": True,
            "forcerm": True,
            **({"target": target} if target else {}),
        }

        return _texts(
            read_until_stopped(
                self._pool,
                f"build {name}",
                "/build",
                stopping=stopping,
                timeout=_SAVE_TIMEOUT,
                params=parameters,
                headers=_TAR,
                data=context,
            )
        )

    def remove(self, image: str, /) -> None:
        """Remove an image by force; one that is not there is no error."""
        with IgnoreMissing(), self._pool.client(f"remove image {image}") as client:
            client.remove_image(image, force=True)


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """A user's name with a password, or an identity token; neither is shown by ``repr``."""

    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.username or self.token)

    @property
    def basic(self) -> str:
        """The header that proves it."""
        return f"Basic {base64.b64encode(f'{self.username}:{self.password}'.encode()).decode()}"


def find_credentials(registry: str) -> Credentials:
    """What docker's configuration has: auths, credHelpers or credsStore. Or `EngineError`."""
    try:
        config = docker.auth.load_config()
        found = config.resolve_authconfig(None if registry == "docker.io" else registry)
    except docker.errors.DockerException as error:
        raise _failed(registry, error) from error
    if not found:
        return Credentials()
    return Credentials(
        username=found.get("Username") or found.get("username") or "",
        password=found.get("Password") or found.get("password") or "",
        token=found.get("IdentityToken") or found.get("identitytoken") or "",
    )


def _failed(registry: str, error: Exception) -> EngineError:
    """The error for a credential helper that failed."""
    return EngineError(
        f"the credentials for {registry} cannot be had: {error}. Look at credHelpers and "
        "credsStore in docker's config.json, or run `docker login` again"
    )


def _credentials(client: Any, name: str) -> dict[str, str]:
    """The header with what docker's own configuration has for an image's registry."""
    registry, _ = docker.auth.resolve_repository_name(name)
    try:
        header = docker.auth.get_config_header(client, registry)
    except docker.errors.DockerException as error:
        raise _failed(registry, error) from error
    return {"X-Registry-Auth": header.decode()} if header else {}


def _texts(steps: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for step in steps:
        if text := step.get("stream", "").strip():
            yield text
