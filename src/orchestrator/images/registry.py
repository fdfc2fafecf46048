"""What registries have for a reference now: the digest of the index, and each platform's.

They are asked directly, or through the daemon where only that one reaches them.
"""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from orchestrator.errors import EngineError
from orchestrator.images.failures import Failure, Retry, classify, retrying
from orchestrator.images.lockfile import LockedImage, LockedPlatform
from orchestrator.images.presence import own_platform, platform_of
from orchestrator.images.reference import is_digest, mirrored

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.engine.api import ImageInfo
    from orchestrator.engine.docker import Engine
    from orchestrator.engine.registry import Document, RegistryClient
    from orchestrator.images.reference import Reference
    from orchestrator.settings import Settings

T = TypeVar("T")
R = TypeVar("R")

_AT_ONCE: Final = 8
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


@dataclass(frozen=True, kw_only=True)
class Registries:
    """The registries, as far as this process or the daemon reaches them.

    Attributes:
        client: Asks them directly.
        engine: The daemon, which may have another network, another proxy and other certificates.
        platform: What images must be made for to run on this machine, such as ``linux/amd64``.
    """

    client: RegistryClient
    engine: Engine
    platform: str


def open_registries(engine: Engine, *, settings: Settings) -> Registries:
    """Access to registries, with the trust of the daemon; without one, only this machine's.

    Locking needs no daemon, so that it works where images are locked but not run.
    """
    from orchestrator.engine.registry import RegistryClient  # docker-py takes 0.1 s to import

    try:
        info = engine.info()
        insecure, platform = info.insecure_registries, f"{info.os}/{info.architecture}"
    except EngineError:
        insecure, platform = (), own_platform()
    client = RegistryClient(timeout=settings.engine_timeout, insecure=insecure)
    return Registries(client=client, engine=engine, platform=platform)


def concurrent_map(do: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Call a function for several items in threads; the results are in the order of the items.

    No exit waits for the threads: those of a pool are joined when the process ends, so that Ctrl-C
    would wait for a registry that stalls.

    Raises:
        Exception: What was raised for the first item for which something was.
    """
    turns = threading.Semaphore(_AT_ONCE)

    def one(item: T, result: Future[R]) -> None:
        with turns:
            try:
                result.set_result(do(item))
            except BaseException as error:  # noqa: BLE001  # raised where it is waited for
                result.set_exception(error)

    results: list[Future[R]] = [Future() for _ in items]
    for pair in zip(items, results, strict=True):
        threading.Thread(target=one, args=pair, name="registry", daemon=True).start()
    return [result.result() for result in results]


class _NotAnImageError(EngineError):
    """There is something under a reference, but no container image."""


def look_up(
    registries: Registries,
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
            lambda: _read(registries, image, source),
            retry=retry or Retry(),
            report=report,
            stopping=stopping,
        )
    except _NotAnImageError:
        raise
    except EngineError as error:
        kind = classify(error)
        if kind in _UNREACHABLE and (digest := _by_way_of_daemon(registries, source)):
            now = replace(image, reference=reference.with_digest(digest))
            known = image.platforms if digest == image.digest else {}
            return replace(now, platforms={**known, **_local(registries, source, digest)})
        raise EngineError(
            f"{reference.familiar}: {error}. {_ADVICE.get(kind, kind.advice)}", status=error.status
        ) from error


_UNREACHABLE: Final = (Failure.NETWORK, Failure.UNTRUSTED)
_ADVICE: Final = {
    Failure.NOT_FOUND: "The registry has no such image; look at the spelling of name and tag.",
    Failure.MISMATCH: "Do not use what it delivers; ask who runs it.",
}


def _by_way_of_daemon(registries: Registries, source: Reference) -> str | None:
    try:
        return registries.engine.images.index_digest(
            source.pinned if source.digest else source.tagged
        )
    except EngineError:
        return None


def _local(registries: Registries, source: Reference, digest: str) -> Mapping[str, LockedPlatform]:
    """The platform of the image that the daemon has pulled under this digest, if any."""
    info = registries.engine.images.find(source.with_digest(digest).pinned)
    if info is None or info.id == digest:
        return {}
    return {platform_of(info): LockedPlatform(config=info.id)}


def read_proof(
    registries: Registries, image: LockedImage, info: ImageInfo, *, settings: Settings
) -> Mapping[str, bytes]:
    """The documents that lead from the digest of an image to the one on this machine.

    Returns digest to content: of the manifest, and of the index above it where there is one.

    Raises:
        EngineError: The registry failed, or does not lead there.
    """
    source = mirrored(image.reference, settings=settings)
    where = (source.registry, source.repository)
    top = registries.client.manifest(*where, str(image.digest))
    above = {top.digest: top.content}
    content = _object(top, source)
    if "manifests" not in content:
        return above
    for child in _children(content):
        if child.get("platform", {}).get("architecture", info.architecture) == info.architecture:
            manifest = registries.client.manifest(*where, child["digest"])
            if _config(_object(manifest, source), source) == info.id:
                return {**above, manifest.digest: manifest.content}
    raise EngineError(f"{source} does not lead to {info.id}")


def _read(registries: Registries, image: LockedImage, source: Reference) -> LockedImage:
    where = (source.registry, source.repository)
    top = registries.client.manifest(*where, source.digest or source.tag or "latest")
    content = _object(top, source)

    def child(listed: Mapping[str, Any]) -> tuple[str, LockedPlatform] | _NotAnImageError:
        try:
            manifest = registries.client.manifest(*where, listed["digest"])
            return _image(registries, source, manifest, platform=listed.get("platform"))
        except _NotAnImageError as error:
            return error

    if isinstance(content.get("manifests"), list):
        found = concurrent_map(child, _children(content))
        platforms = dict(one for one in found if not isinstance(one, _NotAnImageError))
        if not platforms:
            raise next(
                (one for one in found if isinstance(one, _NotAnImageError)),
                _NotAnImageError(f"{source} is no image that can be locked: its index lists none"),
            )
    else:
        platforms = dict([_image(registries, source, top, platform=None)])
    return LockedImage(
        name=image.name,
        reference=image.reference.with_digest(top.digest),
        platforms=dict(sorted(platforms.items())),
    )


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


def _image(
    registries: Registries,
    source: Reference,
    manifest: Document,
    *,
    platform: Mapping[str, Any] | None,
) -> tuple[str, LockedPlatform]:
    """The platform of an image, and its digests."""
    config = _config(_object(manifest, source), source)
    if not platform or not platform.get("os"):
        found = registries.client.blob(source.registry, source.repository, config)
        try:
            platform = _object(found, source)
        except EngineError as error:
            raise _NotAnImageError(
                f"{source} is no image that can be locked: its config is not a JSON object"
            ) from error
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
