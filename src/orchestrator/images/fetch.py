"""Pulling one image: from where, with retries, checked, and named as the lock names it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrator.errors import DigestMismatchError, EngineError, EngineUnavailableError
from orchestrator.images.failure import classify
from orchestrator.images.mirrors import mirrored
from orchestrator.images.presence import is_locked, platform_of
from orchestrator.images.retry import Retry, retrying

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from orchestrator.engine.api import ImageInfo, PullProgress
    from orchestrator.engine.docker import Engine
    from orchestrator.images.lockfile import LockedImage
    from orchestrator.settings import Settings


_ONE_PLATFORM: Final = (
    "The daemon has this digest for another platform and keeps one of each; "
    "`python -m orchestrator lock` adds what it takes to tell them apart, then try again."
)


def fetch_image(
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
    """What to ask the daemon for, and for which platform.

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
    """The index is right; where its platform is locked too, so must be the image itself."""
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
