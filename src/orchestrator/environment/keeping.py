"""Keeping the logs of services beyond their end, for ``ORCHESTRATOR_LOGS``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.environment.site import Site

_PROCESS: Final = "process"  # the folder of what belongs to no class
_log: Final = logging.getLogger("orchestrator.environment")


def keep_logs(site: Site, *, folder: Path) -> None:
    """Write what each service there has logged, secrets masked, before it is removed.

    A file that cannot be written is logged, not raised: the services still have to go.
    """
    for handle in site.bound:
        try:
            write_log(folder, test_class=site.test_class, alias=handle.alias, text=handle.logs())
        except (OrchestratorError, OSError) as error:
            _log.warning("the log of %s was not kept: %s", handle.alias, error)


def write_log(folder: Path, *, test_class: str, alias: str, text: str) -> Path:
    """Add to the file of one service of one test class; returns its path.

    Raises:
        OSError: It cannot be written.
    """
    path = folder / (test_class or _PROCESS) / f"{alias}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    return path
