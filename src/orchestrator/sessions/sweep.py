"""The sweep: before a process creates anything, it removes what provably dead owners left.

One at a time: of many processes that start together one sweeps, and the others do not wait for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.errors import EngineError, printable
from orchestrator.sessions.reaper import reap
from orchestrator.sessions.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from orchestrator.engine import Endpoint
    from orchestrator.engine.docker import Engine
    from orchestrator.sessions.identity import Identity

_PATIENCE: Final = 0.5  # seconds; what will not go must not hold up every start there is
_LOG: Final = logging.getLogger(__name__)


def sweep(
    engine: Engine,
    *,
    endpoint: Endpoint,
    here: Identity,
    own: Collection[str],
    spare_run: str | None = None,
) -> None:
    """Remove what dead owners left, unless another process is at it.

    Args:
        engine: The daemon.
        endpoint: Its address, which names the lock.
        here: The calling process.
        own: The sessions it already has.
        spare_run: A run whose dead are somebody else's to clean up after.

    Raises:
        EngineError: The daemon does not answer. Things that would not go are logged, not raised.
    """
    with _alone(endpoint) as alone:
        if not alone:
            return
        try:
            selection = Selection(spare_run=spare_run)
            report = reap(engine, selection, patience=_PATIENCE, here=here, own=own)
        except EngineError as error:
            if error.status is None:
                raise
            _LOG.warning("could not look for what dead processes left: %s", error)
            return
    for thing in report.removed:
        what = printable(f"{thing.kind} {thing.name} of {thing.process}", lines=False)
        _LOG.info("removed %s", what)
    for kind, reason in report.refused.items():
        why = printable(reason, lines=False)
        _LOG.warning("cannot know which %ss dead processes left: %s", kind, why)
    for failure in report.failed:
        thing = failure.thing
        what = printable(f"{thing.kind} {thing.name}: {failure.reason}", lines=False)
        _LOG.warning("could not remove %s", what)


@contextlib.contextmanager
def _alone(endpoint: Endpoint) -> Iterator[bool]:
    """Hold the lock of one daemon and one user, or yield False at once.

    Unlocked by hand: a child forked meanwhile shares the lock, and would keep it all its life.
    """
    try:
        lock = os.open(_lock_file(endpoint), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:  # a full or read-only disk: sweeping twice does no harm
        _LOG.debug("no lock file: %s", error)
        yield True
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
    finally:
        os.close(lock)


def _lock_file(endpoint: Endpoint) -> Path:
    folder = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    key = hashlib.sha256(endpoint.url.encode()).hexdigest()[:12]
    return Path(folder) / f"orchestrator-{os.getuid()}-{key}.lock"
