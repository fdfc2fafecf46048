"""Whether the locked bytes of an image are on this machine.

A registry digest names the index; the daemon remembers it for what it pulled, but the classic store
forgets it over ``docker save`` and ``docker load``. The config digest (Docker's image id) survives
that, so a locked platform is as good a proof. The containerd store uses the digest of the index or
of the manifest as image id. A tag proves nothing: anybody may give one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from orchestrator.errors import DigestMismatchError
from orchestrator.images.reference import mirrored

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.engine.api import ImageInfo
    from orchestrator.engine.docker import Engine
    from orchestrator.images.lockfile import LockedImage
    from orchestrator.settings import Settings

_MACHINES: Final = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True, kw_only=True)
class Presence:
    """The result of looking for an image on this machine.

    Attributes:
        info: The image with the locked bytes, or None.
        other: The image that has the locked tag but other bytes, or None.
        platform: What the image is to be pulled for, where the daemon would not know by itself.
    """

    info: ImageInfo | None = None
    other: ImageInfo | None = None
    platform: str | None = None


def find_image(
    find: Callable[[str], ImageInfo | None], image: LockedImage, *, settings: Settings
) -> Presence:
    """Look for an image: one question to the daemon when its tag is right, a few when it is not.

    ``find`` asks it: an engine's ``images.find``, or the local look-up, which needs no docker-py.
    """
    reference = image.reference
    other = None
    if reference.tag:
        tagged = find(reference.tagged)
        if tagged and (not reference.digest or is_locked(tagged, image)):
            return Presence(info=tagged)
        other = tagged
    names = []
    if image.digest:
        names = [reference.pinned, mirrored(reference, settings=settings).pinned]
        names += [locked.config for locked in image.platforms.values()]
    for name in dict.fromkeys(names):
        found = find(name)
        if found and is_locked(found, image):
            return Presence(info=found, other=other)
    return Presence(other=other)


def on_platform(
    engine: Engine, image: LockedImage, found: Presence, *, platform: str | None = None
) -> Presence:
    """Narrow what was found to one platform, the daemon's own unless another is given.

    An index stands for several images. The daemon is asked about itself only when the image here
    is not made for this machine's processor, which costs nothing to see; that happens after
    ``pull --platform``.
    """
    info = found.info
    if info is None:
        return replace(found, platform=platform)
    if platform:
        locked = image.on(platform)
        same = (locked.config, locked.manifest, image.digest) if locked else ()
        if info.id in same or (locked is None and platform_of(info) == platform):
            return found
    elif info.architecture == _own_architecture() or not image.platforms:
        return found
    else:
        about = engine.info()
        platform = f"{about.os}/{about.architecture}"
        locked = image.on(platform)
        if info.architecture == about.architecture or locked is None:
            return found
    beside = engine.images.find(locked.config) if locked else None
    return replace(found, info=beside, platform=platform)


def in_place(found: Presence, image: LockedImage) -> bool:
    """Whether the locked bytes are here, tagged and for this machine's processor."""
    info = found.info
    return (
        info is not None
        and info.architecture == _own_architecture()
        and image.reference.familiar in info.tags
    )


def is_locked(info: ImageInfo, image: LockedImage) -> bool:
    """Whether an image has the locked bytes, judged by its id and digests, never by its tag."""
    known = {info.id, *(digest.rpartition("@")[2] for digest in info.repo_digests)}
    return not image.digests.isdisjoint(known)


def own_platform() -> str:
    """The platform of this machine's processor, for when no daemon can be asked for its own."""
    return f"linux/{_own_architecture()}"


def platform_of(info: ImageInfo) -> str:
    """``os/architecture[/variant]`` as lock files write it."""
    return "/".join(part for part in (info.os, info.architecture, info.variant) if part)


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


def _own_architecture() -> str:
    machine = os.uname().machine.lower()
    return _MACHINES.get(machine, machine)
