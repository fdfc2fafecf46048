"""What a service does about its image before it starts."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from orchestrator.errors import DigestMismatchError, EngineError
from orchestrator.images.lockfile import LockedImage
from orchestrator.images.presence import find_image, mismatch
from orchestrator.images.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.engine.port import Engine, ImageInfo
    from orchestrator.settings import Settings


def ensure_image(
    engine: Engine,
    image: LockedImage | Reference,
    *,
    settings: Settings,
    report: Callable[[str], None] | None = None,
) -> ImageInfo:
    """Have the locked bytes of an image on this machine; one question when they are there.

    A missing image is pulled by digest, which is reported: when it begins, when it is done and,
    on a terminal, in between. Start the container from the returned ``id``: a tag may move.

    Args:
        engine: The daemon that will run the service.
        image: What `resolve_image` found.
        settings: ``ORCHESTRATOR_PULL`` decides whether a missing image is pulled.
        report: Takes one line of news; by default it goes to stderr.

    Raises:
        DigestMismatchError: The tag is here with other bytes, or other bytes came.
        EngineError: It is missing and ``ORCHESTRATOR_PULL=never``, or the pull failed.
    """
    if isinstance(image, Reference):
        image = LockedImage(name=str(image), reference=image)
    presence = find_image(engine, image)
    if presence.info is not None:
        return presence.info
    if presence.other is not None:
        raise mismatch(image, presence.other)
    if settings.pull == "never":
        raise EngineError(
            f"{image.reference.familiar} is not on this machine and ORCHESTRATOR_PULL=never "
            "forbids to pull it. Run: python -m orchestrator pull"
        )
    return _pull(engine, image, report or _to_stderr)


def _pull(engine: Engine, image: LockedImage, report: Callable[[str], None]) -> ImageInfo:
    reference = image.reference
    report(f"pulling {reference.familiar}, which is not on this machine yet")
    begun = time.monotonic()
    for _ in engine.pull_image(reference.pinned if reference.digest else reference.tagged):
        pass
    found = engine.image(reference.pinned if reference.digest else reference.tagged)
    if found is None:
        raise DigestMismatchError(f"{reference} was pulled, but is not on this machine")
    if reference.digest and reference.tag:
        engine.tag_image(found.id, as_reference=reference.tagged)
    report(f"pulled {reference.familiar} in {time.monotonic() - begun:.1f} s")
    return found


def _to_stderr(line: str) -> None:
    print(f"orchestrator: {line}", file=sys.stderr, flush=True)  # noqa: T201
