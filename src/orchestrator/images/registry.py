"""What registries have for a reference now: the digest of the index, and each platform's."""

from __future__ import annotations

import contextlib
import functools
import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from orchestrator.errors import EngineError
from orchestrator.images.failures import Failure, classify, retrying
from orchestrator.images.lockfile import LockedImage, LockedPlatform
from orchestrator.images.presence import own_platform
from orchestrator.images.reference import is_digest, mirrored

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.engine.docker import Engine
    from orchestrator.engine.registry import Document, RegistryClient
    from orchestrator.images.reference import Reference
    from orchestrator.settings import Settings

T = TypeVar("T")
R = TypeVar("R")

_AT_ONCE: Final = 8
_LOOK: Final = 0.5  # seconds
_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
# What the config and the layers of an image are, and of nothing else that registries keep.
_OF_IMAGES: Final = (
    "application/vnd.oci.image.",
    "application/vnd.docker.container.image.",
    "application/vnd.docker.image.rootfs.",
)
_ADVICE: Final = {
    Failure.NOT_FOUND: "The registry has no such image; look at the spelling of name and tag.",
    Failure.MISMATCH: "Do not use what it delivers; ask who runs it.",
}


def concurrent_map(do: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Call a function for several items in threads that no exit waits for.

    The results are in order; the first failure is raised.
    """
    from orchestrator.engine.registry import in_thread  # requests takes 0.1 s to import

    turns = threading.Semaphore(_AT_ONCE)

    def one(item: T) -> R:
        with turns:
            return do(item)

    results = [in_thread(functools.partial(one, item)) for item in items]
    for result in results:
        while not result.done():
            # Python misses a Ctrl-C that comes just as it begins to wait without an end.
            with contextlib.suppress(TimeoutError):
                result.exception(_LOOK)
    return [result.result() for result in results]


class _NotAnImageError(EngineError):
    """There is something under a reference, but no container image."""

    def __init__(self, source: Reference, what: str) -> None:
        super().__init__(f"{source} is no image that can be locked: {what}")


@dataclass(frozen=True, kw_only=True)
class Registries:
    """The registries, with the trust of the daemon; ``platform`` is what that runs.

    Locking needs no daemon, so that it works where images are locked but not run.
    """

    client: RegistryClient
    platform: str
    settings: Settings

    @classmethod
    def open(cls, engine: Engine, *, settings: Settings) -> Registries:
        """Ask the daemon, if there is one, what it trusts and runs."""
        from orchestrator.engine.registry import RegistryClient  # docker-py takes 0.1 s to import

        try:
            info = engine.info()
            insecure, platform = info.insecure_registries, f"{info.os}/{info.architecture}"
        except EngineError:
            insecure, platform = (), own_platform()
        client = RegistryClient(timeout=settings.engine_timeout, insecure=insecure)
        return cls(client=client, platform=platform, settings=settings)

    def ask(
        self, images: Sequence[LockedImage], *, report: Callable[[str], None]
    ) -> list[LockedImage | EngineError]:
        """Ask for several images at once: what each is now, or why that is not known.

        They are asked for by digest where they have one, else by tag.
        """
        stopping = threading.Event()

        def one(image: LockedImage) -> LockedImage | EngineError:
            try:
                return retrying(lambda: self._read(image), report=report, stopping=stopping)
            except _NotAnImageError as error:
                return error
            except EngineError as error:
                kind = classify(error)
                text = f"{image.reference.familiar}: {error}. {_ADVICE.get(kind, kind.advice)}"
                return EngineError(text, status=error.status)

        try:
            return concurrent_map(one, images)
        except BaseException:
            stopping.set()
            raise

    def _manifest(self, source: Reference, what: str) -> tuple[Document, Mapping[str, Any]]:
        document = self.client.manifest(source.registry, source.repository, what)
        content = _object(document)
        if content is None:
            raise EngineError(f"{source}: what the registry delivered is no manifest")
        return document, content

    def _read(self, image: LockedImage) -> LockedImage:
        source = mirrored(image.reference, settings=self.settings)
        top, content = self._manifest(source, source.digest or source.tag or "latest")

        def child(listed: Mapping[str, Any]) -> tuple[str, LockedPlatform] | _NotAnImageError:
            try:
                return self._image(
                    source, *self._manifest(source, listed["digest"]), listed.get("platform")
                )
            except _NotAnImageError as error:
                return error

        if isinstance(content.get("manifests"), list):
            found = concurrent_map(child, _children(content))
            platforms = dict(one for one in found if not isinstance(one, _NotAnImageError))
            if not platforms:
                wrong = [one for one in found if isinstance(one, _NotAnImageError)]
                raise wrong[0] if wrong else _NotAnImageError(source, "its index lists none")
        else:
            platforms = dict([self._image(source, top, content, None)])
        return LockedImage(
            name=image.name,
            reference=image.reference.with_digest(top.digest),
            platforms=dict(sorted(platforms.items())),
        )

    def _image(
        self,
        source: Reference,
        manifest: Document,
        content: Mapping[str, Any],
        platform: Mapping[str, Any] | None,
    ) -> tuple[str, LockedPlatform]:
        """The platform of an image, which its config has too, and its digests."""
        config = _config(content, source)
        if not platform or not platform.get("os"):
            platform = _object(self.client.blob(source.registry, source.repository, config))
        if not platform or not platform.get("os") or not platform.get("architecture"):
            raise _NotAnImageError(source, "its config names no platform")
        parts = (platform["os"], platform["architecture"], platform.get("variant"))
        name = "/".join(str(part).lower() for part in parts if part)
        return name, LockedPlatform(manifest=manifest.digest, config=config)


def _children(index: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The images that an index lists; attestations, of platform `unknown`, are left out."""
    return [
        listed
        for listed in index["manifests"]
        if isinstance(listed, dict)
        and is_digest(listed.get("digest"))
        and listed.get("mediaType") not in _INDEXES
        and isinstance(platform := listed.get("platform", {}), dict)
        and platform.get("os") != "unknown"
    ]


def _config(manifest: Mapping[str, Any], source: Reference) -> str:
    """The digest of an image's config; registries also keep charts, signatures and much else."""
    config, layers = manifest.get("config"), manifest.get("layers")
    parts = [config, *(layers if isinstance(layers, list) else ())]
    kinds = [str(part.get("mediaType")) for part in parts if isinstance(part, dict)]
    strange = [kind for kind in kinds if not kind.startswith(_OF_IMAGES)]
    digest = config.get("digest") if isinstance(config, dict) else None
    if strange or not is_digest(digest):
        kind = manifest.get("artifactType") or next(iter(strange), manifest.get("mediaType"))
        raise _NotAnImageError(source, f"it is {kind!s:.200}")
    return str(digest)


def _object(document: Document) -> Mapping[str, Any] | None:
    try:
        content = json.loads(document.content)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
