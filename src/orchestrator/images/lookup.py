"""What a registry has for a reference now: the digest of the index, and each platform's."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from orchestrator.errors import EngineError
from orchestrator.images.abreast import abreast
from orchestrator.images.failure import Failure, classify
from orchestrator.images.lockfile import LockedImage, LockedPlatform
from orchestrator.images.mirrors import mirrored
from orchestrator.images.presence import platform_of
from orchestrator.images.reference import is_digest
from orchestrator.images.retry import Retry, retrying

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping

    from orchestrator.engine.api import ImageInfo
    from orchestrator.engine.registry import Document
    from orchestrator.images.reference import Reference
    from orchestrator.settings import Settings


_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_CONFIG: Final = re.compile(
    r"application/vnd\.(?:oci\.image\.config|docker\.container\.image)\.v1\+json"
)
_LAYER: Final = re.compile(
    r"application/vnd\.(?:oci\.image\.layer(?:\.nondistributable)?\.v1|docker\.image\.rootfs"
    r"(?:\.foreign)?\.diff)\.tar(?:[.+](?:gzip|zstd))?"
)
# A word of a media type to what it is of.
_KNOWN: Final = {
    "helm": "a Helm chart",
    "cosign": "a signature",
    "sigstore": "a signature",
    "notary": "a signature",
    "in-toto": "an attestation",
    "plugin": "a plugin",
}


class Registry(Protocol):
    """What this room needs of `Registries`."""

    def manifest(self, registry: str, repository: str, reference: str) -> Document:
        """The manifest or index under a tag or digest."""

    def blob(self, registry: str, repository: str, digest: str) -> Document:
        """A small blob."""

    def index_digest(self, reference: str) -> str:
        """What the daemon says a reference stands for."""

    def image(self, reference: str) -> ImageInfo | None:
        """The image that the daemon has under a reference."""


class _NotAnImageError(EngineError):
    """What is under a reference cannot be run."""


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

    Where only the daemon reaches the registry, the entry has no platform but that of the image on
    this machine. There is no other try when ``stopping`` is set.

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
    except _NotAnImageError:
        raise
    except EngineError as error:
        kind = classify(error)
        if kind in _UNREACHABLE and (digest := _by_way_of_daemon(registry, source)):
            now = replace(image, reference=reference.with_digest(digest))
            known = image.platforms if digest == image.digest else {}
            return replace(now, platforms={**known, **_local(registry, source, digest)})
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


def _local(registry: Registry, source: Reference, digest: str) -> Mapping[str, LockedPlatform]:
    """What the daemon has pulled under this digest, unless its store has no digest of configs."""
    info = registry.image(source.with_digest(digest).pinned)
    if info is None or info.id == digest:
        return {}
    return {platform_of(info): LockedPlatform(config=info.id)}


def read_proof(
    registry: Registry, image: LockedImage, info: ImageInfo, *, settings: Settings
) -> Mapping[str, bytes]:
    """The documents that lead from the digest of an image to the one on this machine.

    Returns digest to content: of the manifest, and of the index above it where there is one.

    Raises:
        EngineError: The registry failed, or does not lead there.
    """
    source = mirrored(image.reference, settings=settings)
    where = (source.registry, source.repository)
    top = registry.manifest(*where, str(image.digest))
    above = {top.digest: top.content}
    content = _object(top, source)
    if "manifests" not in content:
        return above
    for child in _children(content):
        if child.get("platform", {}).get("architecture", info.architecture) == info.architecture:
            manifest = registry.manifest(*where, child["digest"])
            if _config(_object(manifest, source), source) == info.id:
                return {**above, manifest.digest: manifest.content}
    raise EngineError(f"{source} does not lead to {info.id}")


def _read(registry: Registry, image: LockedImage, source: Reference) -> LockedImage:
    where = (source.registry, source.repository)
    top = registry.manifest(*where, source.digest or source.tag or "latest")
    content = _object(top, source)

    def child(listed: Mapping[str, Any]) -> tuple[str, LockedPlatform] | _NotAnImageError:
        try:
            manifest = registry.manifest(*where, listed["digest"])
            return _image(registry, source, manifest, platform=listed.get("platform"))
        except _NotAnImageError as error:
            return error

    if isinstance(content.get("manifests"), list):
        found = abreast(child, _children(content))
        platforms = dict(one for one in found if not isinstance(one, _NotAnImageError))
        if not platforms:
            raise next(
                (one for one in found if isinstance(one, _NotAnImageError)),
                _NotAnImageError(f"{source} is no image that can be locked: its index lists none"),
            )
    else:
        platforms = dict([_image(registry, source, top, platform=None)])
    return LockedImage(
        name=image.name,
        reference=image.reference.with_digest(top.digest),
        platforms=dict(sorted(platforms.items())),
    )


def _children(index: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What an index lists, but for attestations, which builders list for a platform `unknown`."""
    return [
        listed
        for listed in index["manifests"]
        if isinstance(listed, dict)
        and is_digest(listed.get("digest"))
        and listed.get("mediaType") not in _INDEXES
        and isinstance(platform := listed.get("platform", {}), dict)
        and platform.get("os") != "unknown"
    ]


def _image(
    registry: Registry, source: Reference, manifest: Document, *, platform: Mapping[str, Any] | None
) -> tuple[str, LockedPlatform]:
    """An image's platform, and what it is there."""
    config = _config(_object(manifest, source), source)
    if not platform or not platform.get("os"):
        platform = _object(registry.blob(source.registry, source.repository, config), source)
    if not platform.get("os") or not platform.get("architecture"):
        raise _NotAnImageError(
            f"{source} is no image that can be locked: its config names no platform"
        )
    parts = (platform["os"], platform["architecture"], platform.get("variant"))
    name = "/".join(str(part).lower() for part in parts if part)
    return name, LockedPlatform(manifest=manifest.digest, config=config)


def _config(manifest: Mapping[str, Any], source: Reference) -> str:
    """The digest of an image's config.

    Registries also keep charts, signatures and whatever else has a manifest. An image's config and
    layers say that they are an image's.
    """
    config, layers = manifest.get("config"), manifest.get("layers")
    config = config if isinstance(config, dict) else {}
    layers = [one for one in layers if isinstance(one, dict)] if isinstance(layers, list) else []
    kinds = [config.get("mediaType"), *(layer.get("mediaType") for layer in layers)]
    strange = [
        kind
        for kind, wanted in zip(kinds, (_CONFIG, *(_LAYER for _ in layers)), strict=True)
        if not (isinstance(kind, str) and wanted.fullmatch(kind))
    ]
    digest = config.get("digest")
    if strange or not is_digest(digest):
        kind = manifest.get("artifactType") or strange[0] if strange else None
        kind = str(kind or manifest.get("mediaType") or "of unknown kind")
        what = next((f"{what}, " for word, what in _KNOWN.items() if word in kind), "")
        raise _NotAnImageError(f"{source} is no image that can be locked, but {what}{kind}")
    return str(digest)


def _object(document: Document, source: Reference) -> Mapping[str, Any]:
    try:
        content = json.loads(document.content)
    except (ValueError, RecursionError) as error:
        raise EngineError(f"{source}: what the registry delivered is not JSON") from error
    if not isinstance(content, dict):
        raise EngineError(f"{source}: what the registry delivered is no manifest")
    return content
