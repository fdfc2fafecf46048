"""What a run knows cannot be pulled, so that its next class and its next worker fail at once.

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
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.errors import DigestMismatchError, EngineError, OrchestratorError
from orchestrator.images.failures import Failure, classify, concerns_registry
from orchestrator.images.reference import mirrored

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Mapping

    from orchestrator.images.lockfile import LockedImage
    from orchestrator.settings import Settings

_MISMATCH: Final = "mismatch"
_PASSES: Final = (Failure.OTHER, Failure.DISK)  # the daemon's own, or gone with the next container


@contextlib.contextmanager
def trying_once(
    image: LockedImage,
    *,
    platform: str | None,
    settings: Settings,
    stopping: threading.Event | None,
) -> Iterator[None]:
    """Fail at once where a pull of this image, or from its registry, has failed in this run.

    What the block raises is known from then on, where it is the image's or the registry's fault;
    not once ``stopping`` is set, because a pull that is given up fails for that.

    Raises:
        OrchestratorError: It failed before; the message is that of the first time.
    """
    source = mirrored(image.reference, settings=settings)
    registry, itself = f"registry {source.registry}", f"image {source} {platform}"
    file = _file(_run(settings))
    known = _known(file)
    if before := known.get(itself) or known.get(registry):
        kind, message = before
        again = f"{image.reference.familiar} is not tried again in this run: {message}"
        raise DigestMismatchError(again) if kind == _MISMATCH else EngineError(again)
    try:
        yield
    except OrchestratorError as error:
        given_up = stopping is not None and stopping.is_set()
        if file is not None and not given_up and classify(error) not in _PASSES:
            key = registry if concerns_registry(error) else itself
            kind = _MISMATCH if isinstance(error, DigestMismatchError) else ""
            with contextlib.suppress(OSError):
                os.write(file, json.dumps([key, kind, str(error)]).encode() + b"\n")
        raise


def _run(settings: Settings) -> str:
    """The name of the run that this process belongs to; of the process itself without one."""
    return settings.run or os.environ.get("PYTEST_XDIST_TESTRUNUID") or f"process {os.getpid()}"


def _known(file: int | None) -> Mapping[str, tuple[str, str]]:
    if file is None:
        return {}
    try:
        lines = os.pread(file, os.fstat(file).st_size, 0).splitlines()
        return {key: (kind, message) for key, kind, message in map(json.loads, lines)}
    except (OSError, ValueError):
        return {}


@functools.cache
def _file(run: str) -> int | None:
    """The run's file, empty if nobody else of the run lives; open until this process ends."""
    name = hashlib.sha256(run.encode()).hexdigest()[:32]
    try:
        folder = _folder()
        for other in folder.iterdir():
            _remove_unless_held(other)
        path = folder / name
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.truncate(file, 0)
        fcntl.flock(file, fcntl.LOCK_SH)
    except OSError:
        return None
    atexit.register(_leave, file, path)
    return file


def _folder() -> Path:
    """A temporary folder that only this user can open.

    Raises:
        OSError: There can be none.
    """
    import tempfile  # not at import: whoever declares an image reads its name in this room

    folder = Path(tempfile.gettempdir()) / f"orchestrator-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} is not this user's alone")
    return folder


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
