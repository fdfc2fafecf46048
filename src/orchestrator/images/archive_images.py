"""Which images are in an archive, and that each is one the lock names: by digest, never by name.

An image is its config, whose digest is the classic store's image id. The config is the locked one
when the lock has its digest, or when the archive has the documents that lead from the locked digest
to it: index, manifest, config, each named by its digest in the one before. A layer is the locked
one when the config has its digest, or the manifest that leads to the config.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import DigestMismatchError, InvalidReferenceError, LockError
from orchestrator.images.archive_file import BLOBS
from orchestrator.images.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.images.archive_file import Contents
    from orchestrator.images.lockfile import LockedImage

_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The digests that a manifest consists of."""

    digest: str
    config: str
    layers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ArchivedImage:
    """One image of an archive, proven to be what its entries lock.

    Attributes:
        entries: The names of the entries it is.
        platform: ``os/architecture[/variant]``, as its config has it.
        config: The digest of its config.
        layers: Its layers' members.
        manifest: What leads to its config from the locked digest, where the archive has that.
    """

    entries: Sequence[str]
    platform: str
    config: str
    layers: Sequence[str]
    manifest: Manifest | None


def check_images(
    contents: Contents, entries: Mapping[str, LockedImage], *, name: str
) -> list[ArchivedImage]:
    """The images of an archive, after checking that each is an entry's."""
    proofs = _proofs(contents, entries)
    images = []
    for item, digest, config in _listed(contents, name):
        platform = _platform(config, name)
        known = []
        for entry in entries.values():
            locked = entry.platforms.get(platform)  # where that is locked, no other is its config
            if digest in proofs[entry.name] and (locked is None or locked.config == digest):
                known.append(entry)
        tags = _tags(item, name)
        if not known or tags - {entry.reference.tagged for entry in known}:
            raise _refusal(digest, tags, entries, name=name)
        manifest = next((m for e in known if (m := proofs[e.name][digest])), None)
        images.append(
            ArchivedImage(
                entries=[entry.name for entry in known],
                platform=platform,
                config=digest,
                layers=_layers(contents, item, config, manifest, name),
                manifest=manifest,
            )
        )
    return images


def _proofs(
    contents: Contents, entries: Mapping[str, LockedImage]
) -> dict[str, dict[str, Manifest | None]]:
    """By entry, the config digests that belong to it, each with the manifest that proves it."""
    documents = {contents.digests[name]: raw for name, raw in contents.documents.items()}
    steps: dict[str, Manifest | Sequence[str]] = {}  # each document is parsed once for all entries
    proofs = {}
    for entry in entries.values():
        found: dict[str, Manifest | None] = {p.config: None for p in entry.platforms.values()}
        seen: set[str] = set()
        left = [entry.digest, *(platform.manifest for platform in entry.platforms.values())]
        while left:
            digest = left.pop()
            if digest in documents and digest not in seen:
                seen.add(digest)
                if digest not in steps:
                    steps[digest] = _step(digest, documents[digest])
                below = steps[digest]
                if isinstance(below, Manifest):
                    found[below.config] = below
                else:
                    left += below
        proofs[entry.name] = found
    return proofs


def _step(digest: str, document: bytes) -> Manifest | Sequence[str]:
    """What a document leads to: it is a manifest, or an index of others.

    Every step is proven by the one before, so what one says counts as it stands.
    """
    match _loaded(document):
        case {"manifests": [*children]}:
            return list(dict.fromkeys(map(_digest, children)))
        case {"config": config, "layers": [*layers]} if found := _digest(config):
            return Manifest(digest=digest, config=found, layers=tuple(map(_digest, layers)))
    return ()


def closing_members(
    contents: Contents, images: Sequence[ArchivedImage], entries: Mapping[str, LockedImage]
) -> Iterator[tuple[str, bytes]]:
    """The documents to write after the layers, and the index files that list the images.

    Both stores read ``manifest.json``. Containerd's would rather have the OCI layout, by which an
    image keeps its digest; that is written where it is whole.
    """
    needed = {image.config for image in images} | {
        contents.digests[layer] for image in images for layer in image.layers
    }
    documents, places = {}, {}
    for member, raw in contents.documents.items():
        digest = contents.digests[member]
        if member.startswith(BLOBS):
            documents[digest], places[digest] = raw, member
        elif digest in needed:
            documents[digest] = raw
            places.setdefault(digest, f"{digest.removeprefix('sha256:')}.json")
    for digest, raw in documents.items():
        yield places[digest], raw
    listed = [
        {
            "Config": places[image.config],
            "RepoTags": [entries[entry].reference.tagged for entry in image.entries],
            "Layers": [
                contents.places.get(layer) or places[contents.digests[layer]]
                for layer in image.layers
            ],
        }
        for image in images
    ]
    yield "manifest.json", json.dumps(listed).encode()
    tops = []
    for image in images:
        layers = tuple(contents.digests[layer] for layer in image.layers)
        manifest = image.manifest
        if not manifest or manifest.digest not in documents or manifest.layers != layers:
            return
        tops += [_top(documents, manifest, entries[entry]) for entry in image.entries]
    yield "index.json", json.dumps({"schemaVersion": 2, "manifests": tops}).encode()
    yield "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode()


def _top(
    documents: Mapping[str, bytes], manifest: Manifest, entry: LockedImage
) -> Mapping[str, Any]:
    """The descriptor of an entry in index.json: of the digest that it is locked by."""
    digest = str(entry.digest) if entry.digest in documents else manifest.digest
    content = json.loads(documents[digest])
    return {
        "mediaType": content.get("mediaType", _INDEX if "manifests" in content else _MANIFEST),
        "digest": digest,
        "size": len(documents[digest]),
        "annotations": {
            "io.containerd.image.name": entry.reference.tagged,
            "org.opencontainers.image.ref.name": entry.reference.tag,
        },
    }


def _digest(descriptor: Any) -> str:
    found = descriptor.get("digest") if isinstance(descriptor, dict) else None
    return found if isinstance(found, str) else ""


def _loaded(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _listed(
    contents: Contents, name: str
) -> Iterator[tuple[Mapping[str, Any], str, Mapping[str, Any]]]:
    """The images that the archive's manifest.json lists, each with its config and that's digest."""
    items = _loaded(contents.documents.get("manifest.json", b""))
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise LockError(f"{name} is no whole archive of images: it has no manifest.json of them")
    seen: set[str] = set()
    for item in items:
        member = contents.member(str(item.get("Config"))) or ""
        digest = contents.digests.get(member, "")
        config = _loaded(contents.documents.get(member, b""))
        if not isinstance(config, dict) or digest in seen:  # one image has all its tags
            raise _disagreement(name, f"{item.get('Config')!r:.200} is no config, or listed twice")
        seen.add(digest)
        yield item, digest, config


def _tags(item: Mapping[str, Any], name: str) -> set[str]:
    tags = item.get("RepoTags") or []
    try:
        return {parse_reference(tag).tagged for tag in tags}
    except (TypeError, InvalidReferenceError) as error:
        raise _disagreement(name, f"RepoTags {tags!r:.200}") from error


def _platform(config: Mapping[str, Any], name: str) -> str:
    parts = [config.get("os"), config.get("architecture"), config.get("variant")]
    found = "/".join(str(part).lower() for part in parts if part)
    if not config.get("os") or not config.get("architecture") or "unknown" in found:
        raise _disagreement(name, "a config of no platform")
    return found


def _layers(
    contents: Contents,
    item: Mapping[str, Any],
    config: Mapping[str, Any],
    manifest: Manifest | None,
    name: str,
) -> Sequence[str]:
    """The members of an image's layers, each proven by its config or by its manifest."""
    match item.get("Layers"), config.get("rootfs"):
        case [[*layers], {"diff_ids": [*diff_ids]}] if len(layers) == len(diff_ids):
            same = manifest and len(manifest.layers) == len(layers)
            packed = manifest.layers if manifest and same else diff_ids
        case _:
            raise _disagreement(name, "an image has not the layers of its config")
    found = []
    for layer, plain, compressed in zip(layers, diff_ids, packed, strict=True):
        member = contents.member(str(layer))
        if member is None:
            raise _disagreement(name, f"there is no {layer!r:.200}")
        if contents.digests[member] not in (plain, compressed):
            tags = ", ".join(sorted(_tags(item, name)))
            raise LockError(
                f"{name} is damaged: layer {layer!s:.200} of {tags or 'an image':.200} is not "
                f"{plain!s:.100}; nothing was loaded"
            )
        found.append(member)
    return found


def _disagreement(name: str, what: str) -> LockError:
    return LockError(f"{name} is damaged: manifest.json and files disagree: {what}")


def _refusal(
    config: str, tags: set[str], entries: Mapping[str, LockedImage], *, name: str
) -> DigestMismatchError:
    called = f"{', '.join(sorted(tags)):.200}" or "an image without tag"
    entry = next((e for e in entries.values() if e.reference.tagged in tags), None)
    if entry and not entry.platforms:
        text = (
            f"{entry.name}: images.lock knows {entry.reference.familiar} by the registry's digest "
            f"alone, and {name} does not have what leads from that to {config}. Note the digests "
            "of its platforms: python -m orchestrator lock"
        )
    else:
        wanted = f", but {entry.digest} as entry {entry.name}" if entry else ""
        text = (
            f"{name} holds {called} ({config}), which images.lock does not lock{wanted}. Save it "
            "again with the present one: python -m orchestrator save FILE"
        )
    return DigestMismatchError(f"{text}; nothing was loaded")
