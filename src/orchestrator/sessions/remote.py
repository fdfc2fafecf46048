"""The watchdog's second half for daemons behind TLS or ssh: the same, with the whole package.

The watchdog turns into this process when its owner is dead.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.engine import Endpoint
from orchestrator.sessions.bare.removal import remove_until_quiet
from orchestrator.sessions.clearing import reaper_of

if TYPE_CHECKING:
    from collections.abc import Sequence

_PATIENCE = 30.0


def main(arguments: Sequence[str]) -> None:
    """Remove what a session left.

    Args:
        arguments: Its endpoint (JSON), its label, and the names its owner was creating.
    """
    where, label, *intents = arguments
    values = json.loads(where)
    folder = values["tls"] and Path(values["tls"])
    endpoint = Endpoint(url=values["url"], tls=folder, verify=values["verify"])
    session = label.rpartition("=")[2]
    reaper = reaper_of(session, endpoint=endpoint, patience=_PATIENCE)
    remove_until_quiet(reaper, set(intents))
