"""Whether what is in an archive is what the lock says, image by image."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import DigestMismatchError, LockError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.images.archive_stream import Contents
    from orchestrator.images.lockfile import LockedImage

_BLOBS: Final = "blobs/sha256/"


@dataclass(frozen=True, kw_only=True)
class ArchivedImage:
    """One image of an archive.

    Attributes:
        digests: Of its config, and of its index or manifest where the archive has them.
        tags: The tags it is saved under.
    """

    digests: frozenset[str]
    tags: Sequence[str] = field(default=())


def check_agreement(
    archived: Mapping[str, LockedImage], locked: Mapping[str, LockedImage], *, name: str
) -> None:
    """Compare the entries of an archive with those of the lock file that counts here.

    Raises:
        DigestMismatchError: An image of both has another digest; the message names each.
    """
    wrong = []
    for entry in archived.values():
        other = locked.get(entry.name) or next(
            (e for e in locked.values() if e.reference.tagged == entry.reference.tagged), None
        )
        if other and other.digest != entry.digest:
            wrong.append(
                f"{entry.name}: the archive has {entry.reference.familiar} {entry.digest}, "
                f"images.lock wants {other.reference.familiar} {other.digest}"
            )
    if wrong:
        lines = "\n  ".join(wrong)
        raise DigestMismatchError(
            f"{name} was saved for another images.lock; nothing was loaded:\n  {lines}\n"
            "Save it again with the present one: python -m orchestrator save FILE"
        )


def check_images(
    contents: Contents, wanted: Mapping[str, LockedImage], *, name: str, layers: bool = True
) -> None:
    """Verify every image of an archive: layers against config (if asked), config against lock.

    Raises:
        DigestMismatchError: An image is not the locked one; the message names it.
        LockError: The archive is damaged, or is no archive of images.
    """
    _check_blobs(contents, name)
    images = _images(contents, name, layers=layers)
    for image in images:
        known = [entry for entry in wanted.values() if image.digests & proofs(entry)]
        tagged = [entry for entry in wanted.values() if entry.reference.familiar in image.tags]
        if not known or not all(image.digests & proofs(entry) for entry in tagged):
            _refuse(image, wanted, name)
    missing = [
        entry.name
        for entry in wanted.values()
        if not any(image.digests & proofs(entry) for image in images)
    ]
    if missing:
        raise DigestMismatchError(
            f"{name} says it has {', '.join(missing)}, but no such bytes are in it; "
            "nothing was loaded"
        )


def proofs(entry: LockedImage) -> set[str]:
    """Every digest by which an entry's image can be known."""
    found = {entry.digest}
    for platform in entry.platforms.values():
        found |= {platform.config, platform.manifest}
    return {digest for digest in found if digest}


def _refuse(image: ArchivedImage, wanted: Mapping[str, LockedImage], name: str) -> None:
    tags = ", ".join(image.tags) or "an image without tag"
    digests = ", ".join(sorted(image.digests))
    entry = next((e for e in wanted.values() if e.reference.familiar in image.tags), None)
    if entry:
        raise DigestMismatchError(
            f"{entry.name}: {tags} in {name} has config {digests}, which is not locked for "
            f"{entry.digest}; nothing was loaded"
        )
    raise DigestMismatchError(
        f"{name} holds {tags} ({digests}), which images.lock does not lock or knows no config "
        "digest of (`python -m orchestrator lock` adds them); nothing was loaded"
    )


def _check_blobs(contents: Contents, name: str) -> None:
    for member, digest in contents.digests.items():
        wanted = member.removeprefix(_BLOBS)
        if wanted != member and digest != f"sha256:{wanted}":
            raise LockError(f"{name} is damaged: {member} is {digest}; nothing was loaded")


def _images(contents: Contents, name: str, *, layers: bool) -> list[ArchivedImage]:
    manifest = _read(contents, "manifest.json", name)
    if not isinstance(manifest, list):
        raise LockError(f"{name} is no archive of images: manifest.json is no list")
    indexes = _indexes(contents)
    images = [_image(contents, item, indexes, name) for item in manifest]
    if layers:
        for item in manifest:
            _check_layers(contents, item, name)
    return images


def _image(
    contents: Contents, item: Any, indexes: Mapping[str, frozenset[str]], name: str
) -> ArchivedImage:
    try:
        digest = contents.digests[item["Config"]]
        tags = [str(tag) for tag in item["RepoTags"] or []]
    except (TypeError, KeyError) as error:
        raise _disagreement(name, error) from error
    return ArchivedImage(digests=frozenset({digest}) | indexes.get(digest, frozenset()), tags=tags)


def _check_layers(contents: Contents, item: Any, name: str) -> None:
    try:
        layers, tags = item["Layers"], item["RepoTags"] or []
        diff_ids = _read(contents, item["Config"], name)["rootfs"]["diff_ids"]
        for layer, diff_id in zip(layers, diff_ids, strict=True):
            if layer.startswith(_BLOBS) and contents.digest(layer):
                continue  # named by its digest, which was checked; it may be compressed
            if contents.digest(layer) != diff_id:
                raise LockError(
                    f"{name} is damaged: layer {layer} of {', '.join(tags)} is not {diff_id}; "
                    "nothing was loaded"
                )
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise _disagreement(name, error) from error


def _disagreement(name: str, error: Exception) -> LockError:
    return LockError(f"{name} is damaged: manifest.json and files disagree: {error}")


def _indexes(contents: Contents) -> dict[str, frozenset[str]]:
    """Config to the manifests and indexes above it, in an archive with the OCI layout.

    The containerd store writes one; it proves the digest of the index without any lock.
    """
    above: dict[str, frozenset[str]] = {}

    def walk(digest: str, path: frozenset[str]) -> None:
        raw = contents.documents.get(_BLOBS + digest.removeprefix("sha256:"))
        if raw is None or digest in path:
            return
        try:
            document = json.loads(raw)
            children = [m["digest"] for m in document.get("manifests", ())]
            config = document.get("config", {}).get("digest")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return
        if config:
            above[config] = above.get(config, frozenset()) | path | {digest}
        for child in children:
            walk(child, path | {digest})

    try:
        top = json.loads(contents.documents.get("index.json", b"{}"))
        for listed in top.get("manifests", ()):
            walk(listed["digest"], frozenset())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return above


def _read(contents: Contents, member: str, name: str) -> Any:
    raw = contents.documents.get(str(PurePosixPath(member)))
    if raw is None:
        raise LockError(f"{name} is no whole archive of images: it has no {member}")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise LockError(f"{name} is damaged: {member} is not JSON") from error
