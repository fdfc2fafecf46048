"""Where an image comes from when a mirror stands in for its registry."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.images.reference import Reference
    from orchestrator.settings import Settings


def mirrored(reference: Reference, *, settings: Settings) -> Reference:
    """The reference at the mirror that ``ORCHESTRATOR_REGISTRY_MIRROR`` gives, or unchanged.

    The longest matching beginning counts, at the borders of path parts: ``docker.io/team`` covers
    ``docker.io/team/app``, not ``docker.io/teams``. Tag and digest stay: a mirror changes where
    bytes come from, never which bytes.
    """
    best, target = "", ""
    for prefix, mirror in settings.registry_mirror:
        covers = reference.name == prefix or reference.name.startswith(f"{prefix}/")
        if covers and len(prefix) > len(best):
            best, target = prefix, mirror
    if not best:
        return reference
    registry, _, path = (target + reference.name.removeprefix(best)).partition("/")
    return replace(reference, registry=registry, repository=path)
