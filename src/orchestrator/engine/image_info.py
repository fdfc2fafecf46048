"""An image as the daemon describes it, in our words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.engine.port import ImageInfo

if TYPE_CHECKING:
    from collections.abc import Mapping


def image_info(found: Mapping[str, Any]) -> ImageInfo:
    """Read the answer of an inspection."""
    return ImageInfo(
        id=found["Id"],
        tags=tuple(found.get("RepoTags") or ()),
        repo_digests=tuple(found.get("RepoDigests") or ()),
        os=found["Os"],
        architecture=found["Architecture"],
        variant=found.get("Variant") or "",
        size=found["Size"],
    )
