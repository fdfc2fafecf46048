"""Having the locked images on this machine: one for a service that starts, or all of a lock file.

Both look for the locked bytes, and pull what is missing by digest: from its registry or mirror,
with retries, checked, and named as the lock names it.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.errors import (
    DigestMismatchError,
    EngineError,
    EngineUnavailableError,
    OrchestratorError,
)
from orchestrator.images.display import Transfer, megabytes
from orchestrator.images.failures import Failure, Retry, classify, retrying
from orchestrator.images.known_failures import trying_once
from orchestrator.images.lockfile import LockedImage
from orchestrator.images.presence import find_image, is_locked, mismatch, on_platform, platform_of
from orchestrator.images.reference import Reference, mirrored

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.engine.api import ImageInfo, PullProgress
    from orchestrator.engine.docker import Engine
    from orchestrator.images.display import Display
    from orchestrator.images.presence import Presence
    from orchestrator.settings import Settings

_AT_ONCE: Final = 8
_ON_TERMINAL: Final = 1.0  # seconds between two reports of how far a pull is
_IN_LOGS: Final = 15.0
_ONE_PLATFORM: Final = (
    "The daemon has this digest for another platform and keeps one of each; "
    "`python -m orchestrator lock` adds what it takes to tell them apart, then try again."
)


def ensure_image(
    engine: Engine,
    image: LockedImage | Reference,
    *,
    settings: Settings,
    report: Callable[[str], None] | None = None,
    stopping: threading.Event | None = None,
) -> ImageInfo:
    """Make sure that the locked bytes of an image are on this machine; pull them if not.

    When they are here, that is one question to the daemon. A pull is by digest, and is reported:
    when it begins, when it is done and, on a terminal, in between. What failed in this run is not
    tried again. Start the container from the returned ``id``: a tag may move.

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
    found = on_platform(engine, image, find_image(engine.images, image, settings=settings))
    if found.info is not None:
        return found.info
    if found.other is not None:
        raise mismatch(image, found.other)
    name, platform = image.reference.familiar, found.platform
    if settings.pull == "never":
        raise EngineError(
            f"{name} is not on this machine{f' for {platform}' if platform else ''} and "
            "ORCHESTRATOR_PULL=never forbids to pull it. Run: python -m orchestrator pull"
        )
    report = report or _to_stderr
    transfer = Transfer()
    with trying_once(image, platform=platform, settings=settings, stopping=stopping):
        report(f"pulling {name}, which is not on this machine yet")
        info = _fetch(
            engine,
            image,
            settings=settings,
            progress=_reporting(name, transfer, report),
            report=report,
            platform=platform,
            stopping=stopping,
        )
    report(f"pulled {name}: {megabytes(transfer.total)} in {transfer.seconds:.1f} s")
    return info


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """The outcome of pulling one image.

    Attributes:
        came: Whether it was pulled; it was there already otherwise, or failed.
        size: Bytes that were transferred.
    """

    image: LockedImage
    came: bool = False
    size: int = 0
    failure: Failure | None = None


def pull_images(
    engine: Engine,
    images: Sequence[LockedImage],
    *,
    settings: Settings,
    display: Display,
    found: Mapping[str, Presence] | None = None,
    platform: str | None = None,
    retry: Retry | None = None,
) -> list[Pulled]:
    """Pull what is missing, side by side; one failure does not stop the others.

    Args:
        engine: The daemon that gets the images.
        images: What to pull.
        settings: Mirrors.
        display: Shows how far it is, and what went wrong.
        found: What `find_image` found for entries that were looked for already, by name.
        platform: ``os/architecture[/variant]`` instead of the daemon's own.
        retry: How often to try again.

    Raises:
        EngineUnavailableError: No daemon answers.
    """
    from concurrent.futures import ThreadPoolExecutor  # takes 20 ms, and mostly all is here

    stopping = threading.Event()
    looked = found or {}

    def one(image: LockedImage) -> Pulled:
        name = image.reference.familiar
        seen = looked.get(image.name) or find_image(engine.images, image, settings=settings)
        seen = on_platform(engine, image, seen, platform=platform)
        if seen.info:
            if image.reference.tag and name not in seen.info.tags:
                # `docker image prune` removes what has a digest but no tag
                engine.images.tag(seen.info.id, as_reference=image.reference.tagged)
            display.present(name)
            return Pulled(image=image)
        if seen.other:
            display.news(name, f"the tag moves here from {seen.other.id[:19]}, which stays")
        transfer = display.begin(name)
        try:
            _fetch(
                engine,
                image,
                settings=settings,
                progress=lambda step: display.step(name, step),
                report=lambda line: display.news(name, line),
                platform=seen.platform,
                retry=retry,
                stopping=stopping,
            )
        except OrchestratorError as error:
            if not stopping.is_set():
                display.failed(name, str(error))
            return Pulled(image=image, failure=classify(error))
        display.done(name)
        return Pulled(image=image, came=True, size=transfer.total)

    with display, ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pull") as pool:
        try:
            return list(pool.map(one, images))
        except BaseException:
            stopping.set()
            raise


def _reporting(
    name: str, transfer: Transfer, report: Callable[[str], None]
) -> Callable[[PullProgress], None]:
    """A progress callback that reports now and then how far a pull is."""
    interval = _ON_TERMINAL if sys.stderr.isatty() else _IN_LOGS
    due = interval

    def progress(step: PullProgress) -> None:
        nonlocal due
        transfer.add(step)
        if transfer.seconds >= due:
            due = transfer.seconds + interval
            report(f"pulling {name}: {transfer}")

    return progress


def _to_stderr(line: str) -> None:
    print(f"orchestrator: {line}", file=sys.stderr, flush=True)  # noqa: T201


def _fetch(
    engine: Engine,
    image: LockedImage,
    *,
    settings: Settings,
    progress: Callable[[PullProgress], None],
    report: Callable[[str], None],
    platform: str | None = None,
    retry: Retry | None = None,
    stopping: threading.Event | None = None,
) -> ImageInfo:
    """Pull an image by its digest and give it its tag; give up when ``stopping`` is set.

    Raises:
        DigestMismatchError: Other bytes came than the locked ones.
        EngineError: It could not be pulled; the message says why and what to do.
    """
    name, platform = _source(image, settings=settings, platform=platform)

    def pull() -> None:
        for step in engine.images.pull(name, platform=platform, stopping=stopping):
            progress(step)

    try:
        known = f"The Docker daemon failed to pull {name}: "
        retrying(pull, retry=retry or Retry(), report=report, known=known, stopping=stopping)
    except EngineUnavailableError:
        raise
    except EngineError as error:
        raise _explained(error, image, name) from None  # it says all that the daemon did
    found = engine.images.find(name)
    if found is None or (image.digest and not _as_locked(found, image)):
        raise DigestMismatchError(
            f"{image.reference.familiar}: {name} was pulled, but what came has not the locked "
            f"digest {image.digest}"
        )
    if image.reference.tag:
        engine.images.tag(found.id, as_reference=image.reference.tagged)
    return found


def _source(
    image: LockedImage, *, settings: Settings, platform: str | None
) -> tuple[str, str | None]:
    """The reference and platform to pull.

    The classic store keeps one image per digest ("Cannot overwrite digest"), so a second platform
    of an index is pulled by the digest of its own manifest.
    """
    source = mirrored(image.reference, settings=settings)
    if platform and image.platforms:
        locked = image.on(platform)
        if locked is None:
            has = ", ".join(image.platforms)
            raise EngineError(
                f"{image.reference.familiar}: no matching manifest for {platform}; it has {has}"
            )
        if locked.manifest:
            return source.with_digest(locked.manifest).pinned, None
    return source.pinned if source.digest else source.tagged, platform


def _as_locked(found: ImageInfo, image: LockedImage) -> bool:
    """Whether the index is the locked one, and the image too where its platform is locked."""
    locked = image.platforms.get(platform_of(found))
    same = {image.digest, locked.config, locked.manifest} if locked else {found.id}
    return is_locked(found, image) and found.id in same


def _explained(error: EngineError, image: LockedImage, name: str) -> Exception:
    kind = classify(error)
    by_way_of = "" if name.startswith(image.reference.name) else f" (by way of {name})"
    advice = kind.advice
    if "overwrite digest" in str(error):
        advice = _ONE_PLATFORM
    elif "no matching manifest" in str(error):
        has = f"it is for {', '.join(image.platforms)}" if image.platforms else "it is for others"
        advice = (
            f"The image is not made for this machine: {has}. Lock one that is, or bring it for "
            "another machine with `pull --platform`."
        )
    message = f"{image.reference.familiar}{by_way_of}: {error}. {advice}"
    if kind is kind.MISMATCH:
        return DigestMismatchError(message)
    return EngineError(message, status=error.status)
