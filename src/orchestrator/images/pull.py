"""Pulling every image of a lock file at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.errors import OrchestratorError
from orchestrator.images.failure import Failure, classify
from orchestrator.images.fetch import fetch_image
from orchestrator.images.mirrors import mirrored
from orchestrator.images.presence import (
    find_image,
    find_on_platform,
    platform_of,
    platform_to_pull,
)
from orchestrator.images.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.engine.api import ImageInfo, PullProgress
    from orchestrator.engine.docker import Engine
    from orchestrator.images.display import Display
    from orchestrator.images.lockfile import LockedImage
    from orchestrator.images.retry import Retry
    from orchestrator.settings import Settings

_AT_ONCE: Final = 8


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """How it went with one image.

    Attributes:
        info: The image on this machine, or None when it failed.
        came: Whether it was pulled; it was there already otherwise, or failed.
        size: Bytes that were transferred.
    """

    image: LockedImage
    info: ImageInfo | None = None
    came: bool = False
    size: int = 0
    failure: Failure | None = None


def pull_images(
    engine: Engine,
    images: Sequence[LockedImage],
    *,
    settings: Settings,
    display: Display,
    platform: str | None = None,
    retry: Retry | None = None,
) -> list[Pulled]:
    """Pull what is missing, side by side; one failure does not stop the others.

    Args:
        engine: The daemon that gets the images.
        images: What to pull.
        settings: Mirrors.
        display: Shows how far it is, and what went wrong.
        platform: ``os/architecture[/variant]`` instead of the daemon's own.
        retry: How often to try again.

    Raises:
        EngineUnavailableError: No daemon answers.
    """
    stopping = threading.Event()

    def one(image: LockedImage) -> Pulled:
        name = image.reference.familiar
        source = mirrored(image.reference, settings=settings)
        presence = find_image(engine.images, image, mirrored=source)
        wanted = platform
        if presence.info:
            wanted = platform or platform_to_pull(engine, presence.info, image)
            found = presence.info if _fits(presence.info, image, wanted) else None
            if found is None and wanted:
                found = find_on_platform(engine.images, image, wanted)
            if found:
                _give_tag(engine, image, found)
                display.present(name)
                return Pulled(image=image, info=found)
        if presence.other:
            display.news(name, f"the tag moves here from {presence.other.id[:19]}, which stays")
        return _pull(
            engine,
            image,
            settings=settings,
            display=display,
            platform=wanted,
            retry=retry,
            stopping=stopping,
        )

    with display, ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pull") as pool:
        try:
            return list(pool.map(one, images))
        except BaseException:
            stopping.set()
            raise


def _give_tag(engine: Engine, image: LockedImage, info: ImageInfo) -> None:
    """`docker image prune` removes what has a digest but no tag."""
    if image.reference.tag and image.reference.familiar not in info.tags:
        engine.images.tag(info.id, as_reference=image.reference.tagged)


def _fits(info: ImageInfo, image: LockedImage, platform: str | None) -> bool:
    """One index stands for several images; the right one is that of the wanted platform."""
    if platform is None:
        return True
    if locked := image.on(platform):
        return info.id in (locked.config, locked.manifest, image.digest)
    return platform_of(info) == platform


def _pull(
    engine: Engine,
    image: LockedImage,
    *,
    settings: Settings,
    display: Display,
    platform: str | None,
    retry: Retry | None,
    stopping: threading.Event,
) -> Pulled:
    name, transfer = image.reference.familiar, Transfer()
    display.begin(name, transfer)

    def progress(step: PullProgress) -> None:
        transfer.add(step)
        display.step(name)

    def report(line: str) -> None:
        display.news(name, line)

    try:
        info = fetch_image(
            engine,
            image,
            settings=settings,
            progress=progress,
            report=report,
            platform=platform,
            retry=retry,
            stopping=stopping,
        )
    except OrchestratorError as error:
        if not stopping.is_set():
            display.failed(name, str(error))
        return Pulled(image=image, failure=classify(error))
    display.done(name)
    return Pulled(image=image, info=info, came=True, size=transfer.total)
