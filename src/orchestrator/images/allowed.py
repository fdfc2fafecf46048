"""The registries images may come from: ``ORCHESTRATOR_REGISTRIES``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.images.lockfile import LockedImage
    from orchestrator.settings import Settings


def check_allowed(images: Iterable[LockedImage], *, settings: Settings) -> None:
    """See that images may be used here, whether they are locked or not.

    Whole parts of a name count: ``ghcr.io/acme`` does not let ``ghcr.io/acme-evil`` in. A mirror
    changes nothing: what counts is the name an image is locked under.

    Raises:
        LockError: One is from elsewhere; the message names each.
    """
    allowed = settings.registries
    if not allowed:
        return
    names = dict.fromkeys(image.reference.name for image in images)
    foreign = [
        name for name in names if not any(f"{name}/".startswith(f"{part}/") for part in allowed)
    ]
    if foreign:
        raise LockError(
            f"{', '.join(foreign)} {'is' if len(foreign) == 1 else 'are'} not from an allowed "
            f"registry: ORCHESTRATOR_REGISTRIES has {', '.join(allowed)}. "
            "Use an image from there, or have its name added."
        )
