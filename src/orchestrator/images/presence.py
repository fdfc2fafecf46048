"""Whether the locked bytes of an image are on this machine.

A registry digest names the index; the daemon remembers it for what it pulled, but the classic store
forgets it over ``docker save`` and ``docker load``. The config digest (Docker's image id) survives
that, so a locked platform is as good a proof. The containerd store uses the digest of the index or
of the manifest as image id. A tag proves nothing: anybody may give one.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from orchestrator.errors import DigestMismatchError

if TYPE_CHECKING:
    from orchestrator.engine.api import ImageInfo
    from orchestrator.engine.docker import Engine
    from orchestrator.images.lockfile import LockedImage
    from orchestrator.images.reference import Reference

_MACHINES: Final = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True, kw_only=True)
class Presence:
    """What was found.

    Attributes:
        info: The image with the locked bytes, or None.
        other: The image that has the locked tag but other bytes, or None.
    """

    info: ImageInfo | None = None
    other: ImageInfo | None = None


class Looks(Protocol):
    """What can look for an image: `Images` of the engine, or `LocalLookup`."""

    def find(self, reference: str, /) -> ImageInfo | None:
        """The image under a reference, digest or id, or None."""


def find_image(images: Looks, image: LockedImage, *, mirrored: Reference | None = None) -> Presence:
    """Look for an image: one question to the daemon when its tag is right, a few when it is not.

    Args:
        images: The daemon's images.
        image: The image to look for.
        mirrored: The name under which a mirror delivers it, when that is another one.
    """
    reference = image.reference
    other = None
    if reference.tag:
        tagged = images.find(reference.tagged)
        if tagged and (not reference.digest or is_locked(tagged, image)):
            return Presence(info=tagged)
        other = tagged
    for name in _other_names(image, mirrored):
        found = images.find(name)
        if found and is_locked(found, image):
            return Presence(info=found, other=other)
    return Presence(other=other)


def in_place(images: Looks, image: LockedImage) -> bool:
    """Whether nothing at all is to be done: right bytes, right tag, this machine's processor."""
    info = find_image(images, image).info
    return (
        info is not None
        and info.architecture == _MACHINES.get(platform.machine().lower())
        and image.reference.familiar in info.tags
    )


def is_locked(info: ImageInfo, image: LockedImage) -> bool:
    """Whether an image on this machine has the locked bytes: by its id or digests, by no tag."""
    proofs = {image.digest}
    for locked in image.platforms.values():
        proofs |= {locked.config, locked.manifest}
    digests = {digest.rpartition("@")[2] for digest in info.repo_digests}
    return info.id in proofs or not proofs.isdisjoint(digests)


def own_platform() -> str:
    """The platform of this machine's processor, for when no daemon can be asked for its own."""
    machine = platform.machine().lower()
    return f"linux/{_MACHINES.get(machine, machine)}"


def platform_of(info: ImageInfo) -> str:
    """``os/architecture[/variant]`` as lock files write it."""
    return "/".join(part for part in (info.os, info.architecture, info.variant) if part)


def platform_to_pull(engine: Engine, info: ImageInfo, image: LockedImage) -> str | None:
    """The daemon's own platform, when the image here is for another one and the lock has it.

    That happens after ``pull --platform``. The daemon is asked only when the image is not made for
    this machine's processor, which costs nothing to see.
    """
    machine = _MACHINES.get(platform.machine().lower())
    if info.architecture == machine or not image.platforms:
        return None
    about = engine.info()
    if info.architecture == about.architecture:
        return None
    own = f"{about.os}/{about.architecture}"
    return own if image.on(own) else None


def find_on_platform(images: Looks, image: LockedImage, platform: str) -> ImageInfo | None:
    """The image of one platform, when the lock knows it and it is here beside another's."""
    locked = image.on(platform)
    return images.find(locked.config) if locked else None


def mismatch(image: LockedImage, other: ImageInfo) -> DigestMismatchError:
    """The error for a tag that has other bytes than the locked ones."""
    digests = ", ".join(d.rpartition("@")[2] for d in other.repo_digests) or f"image id {other.id}"
    entry = image.name if image.name != str(image.reference) else image.reference.familiar
    return DigestMismatchError(
        f"{image.reference.familiar} is on this machine with other bytes than the locked ones:\n"
        f"  locked: {image.digest}\n"
        f"  here:   {digests}\n"
        f"Bring the locked one: python -m orchestrator pull\n"
        f"or lock what the registry has now: python -m orchestrator lock --update {entry}"
    )


def _other_names(image: LockedImage, mirrored: Reference | None) -> list[str]:
    if not image.digest:
        return []
    names = [image.reference.pinned]
    if mirrored and mirrored.name != image.reference.name:
        names.append(mirrored.pinned)
    return [*names, *dict.fromkeys(locked.config for locked in image.platforms.values())]
