"""What a service does about its image before it starts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from orchestrator.errors import EngineError
from orchestrator.images.fetch import fetch_image
from orchestrator.images.known_failures import trying_once
from orchestrator.images.lockfile import LockedImage
from orchestrator.images.mirrors import mirrored
from orchestrator.images.presence import find_image, find_on_platform, mismatch, platform_to_pull
from orchestrator.images.reference import Reference
from orchestrator.images.transfer import Transfer, megabytes

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from orchestrator.engine.api import ImageInfo, PullProgress
    from orchestrator.engine.docker import Engine
    from orchestrator.settings import Settings

    Report = Callable[[str], None]

_ON_TERMINAL = 1.0  # seconds between two reports of how far a pull is
_IN_LOGS = 15.0


def ensure_image(
    engine: Engine,
    image: LockedImage | Reference,
    *,
    settings: Settings,
    report: Callable[[str], None] | None = None,
    stopping: threading.Event | None = None,
) -> ImageInfo:
    """Have the locked bytes of an image on this machine; one question when they are there.

    A missing image is pulled by digest, which is reported: when it begins, when it is done and,
    on a terminal, in between. What failed in this run is not tried again. Start the container from
    the returned ``id``: a tag may move.

    Args:
        engine: The daemon that will run the service.
        image: What `resolve_image` found.
        settings: ``ORCHESTRATOR_PULL`` decides whether a missing image is pulled.
        report: Takes one line of news; by default it goes to stderr.
        stopping: Set when nobody waits for the image any more: a pull under way is given up.

    Raises:
        DigestMismatchError: The tag is here with other bytes, or other bytes came.
        EngineError: It is missing and ``ORCHESTRATOR_PULL=never``, or the pull failed.
    """
    if isinstance(image, Reference):
        image = LockedImage(name=str(image), reference=image)
    presence = find_image(
        engine.images, image, mirrored=mirrored(image.reference, settings=settings)
    )
    platform = None
    if presence.info is not None:
        platform = platform_to_pull(engine, presence.info, image)
        if platform is None:
            return presence.info
        if found := find_on_platform(engine.images, image, platform):
            return found
    elif presence.other is not None:
        raise mismatch(image, presence.other)
    if settings.pull == "never":
        raise EngineError(
            f"{image.reference.familiar} is not on this machine"
            f"{f' for {platform}' if platform else ''} and ORCHESTRATOR_PULL=never forbids to pull "
            "it. Run: python -m orchestrator pull"
        )
    with trying_once(image, platform=platform, settings=settings, stopping=stopping):
        return _pull(
            engine,
            image,
            settings=settings,
            report=report or _to_stderr,
            platform=platform,
            stopping=stopping,
        )


def _pull(
    engine: Engine,
    image: LockedImage,
    *,
    settings: Settings,
    report: Report,
    platform: str | None,
    stopping: threading.Event | None,
) -> ImageInfo:
    name, transfer = image.reference.familiar, Transfer()
    report(f"pulling {name}, which is not on this machine yet")
    interval = _ON_TERMINAL if sys.stderr.isatty() else _IN_LOGS
    due = interval

    def progress(step: PullProgress) -> None:
        nonlocal due
        transfer.add(step)
        if transfer.seconds >= due:
            due = transfer.seconds + interval
            report(f"pulling {name}: {transfer}")

    found = fetch_image(
        engine,
        image,
        settings=settings,
        progress=progress,
        report=report,
        platform=platform,
        stopping=stopping,
    )
    report(f"pulled {name}: {megabytes(transfer.total)} in {transfer.seconds:.1f} s")
    return found


def _to_stderr(line: str) -> None:
    print(f"orchestrator: {line}", file=sys.stderr, flush=True)  # noqa: T201
