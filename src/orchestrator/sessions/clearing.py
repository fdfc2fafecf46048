"""Which reaper fits a daemon: raw HTTP where that is possible, the full engine elsewhere."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestrator.engine import connect
from orchestrator.engine.api import Label
from orchestrator.sessions.bare.daemon import parse_address
from orchestrator.sessions.bare.raw import RawReaper
from orchestrator.sessions.engine_reaper import EngineReaper
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from orchestrator.engine import Endpoint
    from orchestrator.sessions.bare.removal import Reaper

_DEFAULT_PORT = 2375


def reaper_of(
    session: str, *, endpoint: Endpoint, patience: float, until: float = math.inf
) -> Reaper:
    """A reaper of one session that shares no client, lock or thread with the running program.

    Args:
        session: Whose things it removes.
        endpoint: The daemon.
        patience: Seconds for one answer.
        until: When to stop waiting for any, on the clock of `time.monotonic`.
    """
    address = raw_address(endpoint)
    if address:
        label = f"{Label.SESSION}={session}"
        return RawReaper(parse_address(address), label, patience=patience, until=until)
    engine = connect(Settings(engine_timeout=patience), endpoint=endpoint)
    return EngineReaper(engine, session, until=until)


def raw_address(endpoint: Endpoint) -> str | None:
    """The daemon's socket or ``host:port``; None when it takes TLS or ssh to speak to it."""
    if endpoint.socket:
        return str(Path(endpoint.socket).absolute())
    url = urlsplit(endpoint.url)
    if endpoint.tls is None and url.scheme in ("tcp", "http"):
        return f"{url.hostname}:{url.port or _DEFAULT_PORT}"
    return None
