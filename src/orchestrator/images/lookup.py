"""What a registry has for a reference now: the digest of the index, and each platform's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Protocol

from orchestrator.errors import EngineError
from orchestrator.images.abreast import abreast
from orchestrator.images.failure import Failure, classify
from orchestrator.images.lockfile import LockedImage, LockedPlatform
from orchestrator.images.mirrors import mirrored
from orchestrator.images.reference import is_digest
from orchestrator.images.retry import Retry, retrying

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping

    from orchestrator.engine.registry import Document
    from orchestrator.images.reference import Reference
    from orchestrator.settings import Settings


class Registry(Protocol):
    """What this room needs of `Registries`."""

    def manifest(self, registry: str, repository: str, reference: str) -> Document:
        """The manifest or index under a tag or digest."""

    def blob(self, registry: str, repository: str, digest: str) -> Document:
        """A small blob."""

    def index_digest(self, reference: str) -> str:
        """What the daemon says a reference stands for."""


def look_up(
    registry: Registry,
    image: LockedImage,
    *,
    settings: Settings,
    report: Callable[[str], None],
    retry: Retry | None = None,
    stopping: threading.Event | None = None,
) -> LockedImage:
    """Ask the registry for an image by its tag; by its digest where the reference has one.

    Where only the daemon reaches the registry, the entry is without platforms. There is no other
    try when ``stopping`` is set.

    Raises:
        EngineError: The registry failed for good; the message says why and what to do.
    """
    reference = image.reference
    source = mirrored(reference, settings=settings)
    try:
        return retrying(
            lambda: _read(registry, image, source),
            retry=retry or Retry(),
            report=report,
            stopping=stopping,
        )
    except EngineError as error:
        kind = classify(error)
        if kind in _UNREACHABLE and (digest := _by_way_of_daemon(registry, source)):
            reference = reference.with_digest(digest)
            same = digest == image.digest
            platforms = image.platforms if same else {}
            return LockedImage(name=image.name, reference=reference, platforms=platforms)
        raise EngineError(
            f"{reference.familiar}: {error}. {_ADVICE.get(kind, kind.advice)}", status=error.status
        ) from error


_UNREACHABLE: Final = (Failure.NETWORK, Failure.UNTRUSTED)
_ADVICE: Final = {
    Failure.NOT_FOUND: "The registry has no such image; look at the spelling of name and tag.",
    Failure.MISMATCH: "Do not use what it delivers; ask who runs it.",
}


def _by_way_of_daemon(registry: Registry, source: Reference) -> str | None:
    try:
        return registry.index_digest(source.pinned if source.digest else source.tagged)
    except EngineError:
        return None


def _read(registry: Registry, image: LockedImage, source: Reference) -> LockedImage:
    where = (source.registry, source.repository)
    top = registry.manifest(*where, source.digest or source.tag or "latest")
    content = _object(top, source)
    listed = content.get("manifests")
    if isinstance(listed, list):
        found = [m for m in listed if isinstance(m, dict) and _is_image(m)]
        configs = abreast(lambda m: _config(registry, source, str(m["digest"])), found)
        platforms = {
            _platform(m["platform"]): LockedPlatform(manifest=str(m["digest"]), config=config)
            for m, config in zip(found, configs, strict=True)
        }
    else:
        config = _config_of(content, source)
        about = _object(registry.blob(*where, config), source)
        platforms = {_platform(about): LockedPlatform(manifest=top.digest, config=config)}
    return LockedImage(
        name=image.name,
        reference=image.reference.with_digest(top.digest),
        platforms=dict(sorted(platforms.items())),
    )


def _config(registry: Registry, source: Reference, digest: str) -> str:
    manifest = registry.manifest(source.registry, source.repository, digest)
    return _config_of(_object(manifest, source), source)


def _config_of(manifest: Mapping[str, Any], source: Reference) -> str:
    config = manifest.get("config")
    digest = config.get("digest") if isinstance(config, dict) else None
    if not is_digest(digest):
        raise EngineError(
            f"{source} is no image that can be locked: its manifest "
            f"({manifest.get('mediaType', 'of unknown kind')}) has no config"
        )
    return str(digest)


def _object(document: Document, source: Reference) -> Mapping[str, Any]:
    try:
        content = json.loads(document.content)
    except (ValueError, RecursionError) as error:
        raise EngineError(f"{source}: what the registry delivered is not JSON") from error
    if not isinstance(content, dict):
        raise EngineError(f"{source}: what the registry delivered is no manifest")
    return content


def _is_image(listed: Mapping[str, Any]) -> bool:
    """Builders list attestations beside the images, for a platform called unknown."""
    platform = listed.get("platform")
    return (
        isinstance(platform, dict)
        and platform.get("os") not in (None, "", "unknown")
        and is_digest(listed.get("digest"))
    )


def _platform(about: Mapping[str, Any]) -> str:
    parts = (about.get("os"), about.get("architecture"), about.get("variant"))
    return "/".join(str(part).lower() for part in parts if part)
