"""What the runner knows about the services of a test class, for the worker and for the parent."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.runner.protocol import Declared


def of(cls: type) -> tuple[Declared, ...]:
    """The services a class declares; reading a declaration starts nothing."""
    return ()


def facts(cls: type) -> dict[str, str]:
    """What one prints about the running services of a class, as ``alias.fact``."""
    return {}


def keep_logs(cls: type, *, owner: str, folder: Path) -> None:
    """Write the logs of the running services of a class, one file each, into a folder."""


def salvage(*, run: str, pid: int, folder: Path | None) -> str:
    """Take the logs of a dead worker's containers, then remove them; returns the logs' ends."""
    return ""
