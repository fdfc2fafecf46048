"""Having the locked images on this machine: one for a service that starts, or all of a lock file.

Both look for the locked bytes, and pull what is missing by digest: from its registry or mirror,
with retries, checked, and named as the lock names it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from orchestrator.errors import (
    DigestMismatchError,
    EngineError,
    EngineUnavailableError,
    OrchestratorError,
)
from orchestrator.images.failures import (
    Failure,
    classify,
    concerns_registry,
    failed_before,
    note_failure,
    retrying,
)
from orchestrator.images.presence import find_image, is_locked, on_platform, platform_of
from orchestrator.images.reference import mirrored
from orchestrator.images.registry import concurrent_map
from orchestrator.progress import tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from orchestrator.engine.api import ImageInfo, PullProgress
    from orchestrator.engine.docker import Engine
    from orchestrator.images.lockfile import LockedImage
    from orchestrator.images.presence import Presence
    from orchestrator.settings import Settings

_OFTEN: Final = 0.1  # seconds between two words about one pull


def pull_missing(
    engine: Engine,
    image: LockedImage,
    *,
    settings: Settings,
    platform: str | None,
    stopping: threading.Event | None,
) -> ImageInfo:
    """Pull an image that is not here, unless that is forbidden, or has failed in this run."""
    if settings.pull == "never":
        on = f" for {platform}" if platform else ""
        raise EngineError(
            f"{image.reference.familiar} is not on this machine{on} and "
            "ORCHESTRATOR_PULL=never forbids to pull it. Run: python -m orchestrator pull"
        )
    source = mirrored(image.reference, settings=settings)
    registry, itself = f"registry {source.registry}", f"image {source} {platform}"
    if before := failed_before(itself, registry, settings=settings):
        kind, message = before
        wrong = DigestMismatchError if kind == DigestMismatchError.__name__ else EngineError
        raise wrong(f"{image.reference.familiar} is not tried again in this run: {message}")
    stopping = stopping or threading.Event()
    puller = Puller(engine=engine, settings=settings, display=Display(), stopping=stopping)
    try:
        return puller.pull(image, platform=platform)[0]
    except (DigestMismatchError, EngineError) as error:
        # the daemon's own failures, and those of its disk, may be over with the next container
        passing = classify(error) in (Failure.OTHER, Failure.DISK)
        if not passing and not stopping.is_set():
            key = registry if concerns_registry(error) else itself
            note_failure(key, type(error).__name__, str(error), settings=settings)
        raise


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """The outcome of pulling one image: whether it came now, and how many bytes that took."""

    image: LockedImage
    came: bool = False
    size: int = 0
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True)
class Puller:
    """Pulls images to a daemon. Once ``stopping`` is set, what is under way is given up."""

    engine: Engine
    settings: Settings
    display: Display
    attempts: int = 5
    stopping: threading.Event = field(default_factory=threading.Event)

    def pull_missing(
        self,
        images: Sequence[LockedImage],
        *,
        found: Mapping[str, Presence],
        platform: str | None = None,
    ) -> list[Pulled]:
        """Pull what is missing, side by side; one failure does not stop the others.

        ``found`` has, by name, what `find_image` found for entries that were looked for already;
        ``platform`` is ``os/architecture[/variant]`` instead of the daemon's own.
        """

        def one(image: LockedImage) -> Pulled:
            name, daemon = image.reference.familiar, self.engine.images
            seen = found.get(image.name) or find_image(daemon.find, image, settings=self.settings)
            seen = on_platform(self.engine, image, seen, platform=platform)
            if seen.info:
                if image.reference.tag and name not in seen.info.tags:
                    # `docker image prune` removes what has a digest but no tag
                    daemon.tag(seen.info.id, as_reference=image.reference.tagged)
                self.display.news(name, "present")
                return Pulled(image=image)
            if seen.other:
                other = seen.other.id[:19]
                self.display.news(name, f"the tag moves here from {other}, which stays")
            try:
                _, transfer = self.pull(image, platform=seen.platform)
            except OrchestratorError as error:
                if not self.stopping.is_set():
                    text = str(error).removeprefix(f"{name}: ")
                    self.display.news(f"FAILED {name}", text, important=True)
                return Pulled(image=image, failure=classify(error))
            return Pulled(image=image, came=True, size=transfer.total)

        try:
            return concurrent_map(one, images)
        except BaseException:
            self.stopping.set()
            raise

    def pull(self, image: LockedImage, *, platform: str | None) -> tuple[ImageInfo, Transfer]:
        """Pull an image by its digest and give it its tag."""
        shown, daemon = image.reference.familiar, self.engine.images
        source = mirrored(image.reference, settings=self.settings)
        name = source.pinned if source.digest else source.tagged
        locked = image.on(platform) if platform else None
        if locked and locked.manifest:
            # The classic store keeps one image per digest ("Cannot overwrite digest"), so a second
            # platform of an index is pulled by the digest of its own manifest.
            name, platform = source.with_digest(locked.manifest).pinned, None
        with self.display.pulling(shown) as transfer:

            def pull() -> None:
                for step in daemon.pull(name, platform=platform, stopping=self.stopping):
                    transfer.add(step)

            try:
                retrying(
                    pull,
                    report=lambda line: self.display.news(shown, line),
                    stopping=self.stopping,
                    attempts=self.attempts,
                    known=f"The Docker daemon failed to pull {name}: ",
                )
            except EngineUnavailableError:
                raise
            except EngineError as error:
                raise _explained(error, image, name) from None  # it says all that the daemon did
            found = daemon.find(name)
            if found is None or (image.digest and not _as_locked(found, image)):
                raise DigestMismatchError(
                    f"{shown}: {name} was pulled, but what came has not the locked digest "
                    f"{image.digest}"
                )
            if image.reference.tag:
                daemon.tag(found.id, as_reference=image.reference.tagged)
        return found, transfer


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
        advice = (
            "The daemon has this digest for another platform and keeps one of each; "
            "`python -m orchestrator lock` adds what it takes to tell them apart, then try again."
        )
    elif "no matching manifest" in str(error):
        has = ", ".join(image.platforms) or "others"
        advice = (
            f"The image is not made for this machine: it is for {has}. Lock one that is, or bring "
            "it for another machine with `pull --platform`."
        )
    message = f"{image.reference.familiar}{by_way_of}: {error}. {advice}"
    if kind is kind.MISMATCH:
        return DigestMismatchError(message)
    return EngineError(message, status=error.status)


class Transfer:
    """The progress of one pull, told now and then. Sizes are bytes, as transferred (compressed)."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._begun = self._said = time.monotonic()
        self._layers: dict[str, tuple[int, int]] = {}

    def add(self, step: PullProgress) -> None:
        """Count one step that the daemon reported."""
        if step.status == "Downloading" and step.total:
            self._layers[step.layer] = (step.current, step.total)
        elif step.status in ("Download complete", "Verifying Checksum"):
            _, total = self._layers.get(step.layer, (0, 0))
            self._layers[step.layer] = (total, total)
        if (now := time.monotonic()) - self._said >= _OFTEN:
            self._said = now
            self._say(f"pulling {self}")

    @property
    def total(self) -> int:
        """Bytes of the layers known so far."""
        return sum(total for _, total in self._layers.values())

    @property
    def seconds(self) -> float:
        """Seconds since its beginning."""
        return time.monotonic() - self._begun

    def __str__(self) -> str:
        done = megabytes(sum(done for done, _ in self._layers.values()))
        return f"{done} of {megabytes(self.total)}, {self.seconds:.0f} s"


def megabytes(size: int) -> str:
    """A number of bytes as text, in MB or GB."""
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"  # noqa: PLR2004


class Display:
    """Tells of pulls, from any thread; a quiet one only of what went wrong."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet

    @contextlib.contextmanager
    def pulling(self, name: str) -> Iterator[Transfer]:
        """Tell of a pull while the block runs."""
        transfer = Transfer(lambda text: self._tell(name, text))
        self._tell(name, "pulling")
        try:
            yield transfer
        except BaseException:
            self._tell(name, "", over=True)
            raise
        size = megabytes(transfer.total)
        self.news(name, f"pulled and verified, {size} in {transfer.seconds:.1f} s")

    def news(self, name: str, text: str, *, important: bool = False) -> None:
        """Tell something about an image."""
        if important or not self._quiet:
            tell(name, text, over=True)

    def _tell(self, name: str, text: str, *, over: bool = False) -> None:
        if not self._quiet:
            tell(name, text, over=over)
