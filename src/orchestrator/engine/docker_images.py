"""Images, through docker-py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.engine.docker_containers import NOT_FOUND
from orchestrator.engine.port import ImageInfo, PullProgress
from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.engine.docker_client import ClientPool


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
        return ImageInfo(
            id=found["Id"],
            tags=tuple(found.get("RepoTags") or ()),
            repo_digests=tuple(found.get("RepoDigests") or ()),
            os=found["Os"],
            architecture=found["Architecture"],
            size=found["Size"],
        )

    def pull_image(
        self, reference: str, /, *, platform: str | None = None
    ) -> Iterator[PullProgress]:
        """Pull an image; the work happens while the steps are read."""
        doing = f"pull {reference}"
        with self._pool.client(doing) as client:
            for step in client.pull(reference, stream=True, decode=True, platform=platform):
                if "error" in step:
                    raise EngineError(f"The Docker daemon failed to {doing}: {step['error']}")
                detail = step.get("progressDetail") or {}
                yield PullProgress(
                    layer=step.get("id", ""),
                    status=step.get("status", ""),
                    current=detail.get("current", 0),
                    total=detail.get("total", 0),
                )

    def tag_image(self, reference: str, /, *, as_reference: str) -> None:
        """Give an image another name."""
        repository, _, tag = as_reference.rpartition(":")
        with self._pool.client(f"tag {reference} as {as_reference}") as client:
            client.tag(reference, repository, tag)

    def remove_image(self, image: str, /) -> None:
        """Remove an image."""
        try:
            with self._pool.client(f"remove image {image}") as client:
                client.remove_image(image, force=True)
        except EngineError as error:
            if error.status != NOT_FOUND:
                raise
