"""What a run knows cannot be done, so that its next class and its next worker fail at once.

The processes of a run share a file in a folder that only this user can open. Each holds a lock on
it as long as it lives, which no signal can keep it from letting go: who finds the file without a
lock begins a new one, so nothing outlives the run, also where the next has the same name. Where
there can be no such file, everybody tries for themselves.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.files import private_folder

if TYPE_CHECKING:
    from orchestrator.settings import Settings


def has_failures(*, settings: Settings) -> bool:
    """Whether anything has failed in this run."""
    file = _file(_run(settings))
    return file is not None and os.fstat(file).st_size > 0


def failed_before(*keys: str, settings: Settings) -> tuple[str, str] | None:
    """The kind and the message of what has failed in this run under one of these keys."""
    file = _file(_run(settings))
    try:
        lines = os.pread(file, os.fstat(file).st_size, 0).splitlines() if file is not None else []
        known = {key: (kind, message) for key, kind, message in map(json.loads, lines)}
    except (OSError, ValueError):
        return None
    return next((known[key] for key in keys if key in known), None)


def note_failure(key: str, kind: str, message: str, *, settings: Settings) -> None:
    """Tell every process of this run that something failed."""
    file = _file(_run(settings))
    if file is not None:
        with contextlib.suppress(OSError):
            os.write(file, json.dumps([key, kind, message]).encode() + b"\n")


def _run(settings: Settings) -> str:
    """The name of the run that this process belongs to; of the process itself without one."""
    return settings.run_of_workers or f"process {os.getpid()}"


@functools.cache
def _file(run: str) -> int | None:
    """The run's file, empty if nobody else of the run lives; open until this process ends."""
    name = hashlib.sha256(run.encode()).hexdigest()[:32]
    try:
        here = private_folder(folder())
        for other in here.iterdir():
            _remove_unless_held(other)
        path = here / name
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.truncate(file, 0)
        fcntl.flock(file, fcntl.LOCK_SH)
    except OSError:
        return None
    atexit.register(_leave, file, path)
    return file


def folder() -> Path:
    """Where the files of this user's runs are; it need not be there."""
    import tempfile  # not at import: whoever declares an image reads its name in this room

    # Not the keepers' folder: whoever looks into this one removes what nobody holds a lock on.
    return Path(tempfile.gettempdir()) / f"orchestrator-{os.geteuid()}-failures"


def _leave(file: int, path: Path) -> None:
    os.close(file)
    _remove_unless_held(path)


def _remove_unless_held(path: Path) -> None:
    """Remove a file whose run is over."""
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(file)
