"""The images of a daemon, through docker-py, and what is sent to it to build one."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import docker.auth
import docker.errors
import docker.utils.build

from orchestrator.engine.api import ImageInfo, Label, PullProgress, image_info
from orchestrator.engine.client import IgnoreMissing
from orchestrator.engine.registry_trust import credentials_failed
from orchestrator.engine.streams import (
    Cancellation,
    open_stream,
    read_pieces,
    read_steps,
    until_stopped,
)

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from orchestrator.engine.client import ClientPool

# The daemon unpacks every layer into a temporary folder before it sends the first byte.
_SAVE_TIMEOUT: Final = 900.0  # seconds
_PIECE: Final = 1 << 20  # bytes
_TAR: Final = {"Content-Type": "application/x-tar"}
_IN_MEMORY: Final = 8 << 20  # bytes; a larger build context goes to disk


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
        doing = f"pull {reference}"
        name, tag = _split(reference)
        parameters = {"fromImage": name, "tag": tag, **({"platform": platform} if platform else {})}
        cancellation = Cancellation(doing)

        def steps() -> Iterator[PullProgress]:
            with self._pool.client(doing) as client:
                headers = _credentials(client, name)
                opened = open_stream(
                    client, "POST", "/images/create", params=parameters, headers=headers
                )
                with opened as response, cancellation.reading(response):
                    for step in read_steps(response, doing):
                        yield _progress(step)

        return until_stopped(steps(), cancellation, stopping=stopping)

    def tag(self, reference: str, /, *, as_reference: str) -> None:
        """Give an image another name."""
        repository, tag = _split(as_reference)
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
        doing = f"build {name}"
        parameters = {
            "t": name,
            "dockerfile": dockerfile,
            "buildargs": json.dumps(dict(args)),
            "labels": json.dumps({**labels, Label.NAME: name}),
            "rm": True,
            "forcerm": True,
            **({"target": target} if target else {}),
        }
        cancellation = Cancellation(doing)

        def steps() -> Iterator[str]:
            with self._pool.client(doing, timeout=_SAVE_TIMEOUT) as client:
                opened = open_stream(
                    client, "POST", "/build", params=parameters, headers=_TAR, data=context
                )
                with opened as response, cancellation.reading(response):
                    yield from _texts(read_steps(response, doing))

        return until_stopped(steps(), cancellation, stopping=stopping)

    def remove(self, image: str, /) -> None:
        """Remove an image by force; one that is not there is no error."""
        with IgnoreMissing(), self._pool.client(f"remove image {image}") as client:
            client.remove_image(image, force=True)


def _split(reference: str) -> tuple[str, str]:
    """Name, and tag or digest; a colon before the last slash belongs to a port."""
    name, at, digest = reference.partition("@")
    if at:
        return name, digest
    head, slash, last = reference.rpartition("/")
    last, _, tag = last.partition(":")
    return f"{head}{slash}{last}", tag or "latest"


def _credentials(client: Any, name: str) -> dict[str, str]:
    """The header with what docker's own configuration has for an image's registry.

    Raises:
        EngineError: A credential helper failed.
    """
    registry, _ = docker.auth.resolve_repository_name(name)
    try:
        header = docker.auth.get_config_header(client, registry)
    except docker.errors.DockerException as error:
        raise credentials_failed(registry, error) from error
    return {"X-Registry-Auth": header.decode()} if header else {}


def _progress(step: Mapping[str, Any]) -> PullProgress:
    detail = step.get("progressDetail") or {}
    return PullProgress(
        layer=step.get("id", ""),
        status=step.get("status", ""),
        current=detail.get("current", 0),
        total=detail.get("total", 0),
    )


def _texts(steps: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for step in steps:
        if text := step.get("stream", "").strip():
            yield text


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """A folder, ready to send.

    Attributes:
        tar: The folder as a tar, at its beginning; close it.
        digest: 64 hex digits that stand for the content: names, bytes, who may execute.
    """

    tar: IO[bytes]
    digest: str


def pack_context(folder: Path, *, dockerfile: str, replaced: Mapping[str, bytes]) -> BuildContext:
    """Pack a folder without what its ``.dockerignore`` leaves out.

    Times and owners are left out too, so that a fresh clone has the same digest.

    Args:
        folder: The folder.
        dockerfile: A file that is never left out.
        replaced: Files that are sent with another content.

    Raises:
        OSError: Something in it cannot be read.
    """
    ignore = folder / ".dockerignore"
    patterns = ignore.read_text(encoding="utf-8").splitlines() if ignore.is_file() else []
    names = docker.utils.build.exclude_paths(
        str(folder), [line.strip() for line in patterns if _counts(line)], dockerfile=dockerfile
    )
    tar: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - the caller closes it
    try:
        with tarfile.open(fileobj=tar, mode="w") as archive:
            for name in sorted(set(names) - {""}):
                _add(archive, folder, name, content=replaced.get(name))
        tar.seek(0)
        digest = hashlib.sha256()
        while piece := tar.read(_PIECE):
            digest.update(piece)
        tar.seek(0)
    except BaseException:
        tar.close()
        raise
    return BuildContext(tar=tar, digest=digest.hexdigest())


def _counts(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def _add(archive: tarfile.TarFile, folder: Path, name: str, *, content: bytes | None) -> None:
    member: tarfile.TarInfo | None = archive.gettarinfo(
        str(folder / name), arcname=Path(name).as_posix()
    )
    if member is None:
        return  # a socket: nothing that could be sent
    member.mtime = member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    if content is not None:
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    elif member.isreg():
        with (folder / name).open("rb") as file:
            archive.addfile(member, file)
    else:
        archive.addfile(member)
