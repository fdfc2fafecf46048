"""Writing a file whole or not at all, and folders that are one user's alone."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Give a file to write to, which takes the place of ``path`` when the block ends well.

    Whoever reads at the same time sees the old content or the new one. Permissions stay as they
    were, and a link stays a link. When the block fails, nothing new is left behind.

    Raises:
        OSError: The file cannot be written.
    """
    path = Path(os.path.realpath(path))
    # Named before it is there, so that it is removed also when a signal comes as it is made.
    part = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        with part.open("xb") as file:
            yield file
        with contextlib.suppress(FileNotFoundError):
            part.chmod(path.stat().st_mode & 0o777)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def private_folder(path: Path) -> Path:
    """Make a folder that only this user can open, or make sure that the one there is so.

    Raises:
        OSError: It cannot be made, or is not this user's alone.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"{path} is not a folder of this user's alone")
    return path
