"""Write the locked images into one file.

  save images.tar       also .tar.gz and .tar.zst, by the name's ending
  save FILE NAME...     only these entries

The file is what `docker save` writes; it appears when it is whole. In it an image is known by the
digest of its platform, so an entry that has none is refused: `lock` notes it. Exit status: that of
`pull` for the same failure.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from typing import TYPE_CHECKING

from orchestrator.cli import archive, counted
from orchestrator.engine import connect
from orchestrator.errors import EngineUnavailableError, LockError, OrchestratorError
from orchestrator.images import find_lock
from orchestrator.images.archive import save_images
from orchestrator.images.failures import classify
from orchestrator.images.pull import megabytes
from orchestrator.settings import Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from types import FrameType


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "file", type=archive, metavar="FILE", help="where to: .tar, .tar.gz, .tar.zst"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries to save (default: all)")


def run(arguments: argparse.Namespace) -> int:
    """Save, and say how large it is."""
    settings = Settings.from_environment()
    lock = find_lock(settings)
    images = lock.select(arguments.names)
    if not images:
        raise LockError(f"{lock.path} has no entries: there is nothing to save")
    begun = time.monotonic()
    with contextlib.closing(connect(settings)) as engine, _cleaning_up():
        try:
            size = save_images(engine, images, arguments.file, settings=settings)
        except EngineUnavailableError:
            raise
        except OrchestratorError as error:
            print(f"orchestrator save: {error}", file=sys.stderr)
            return classify(error).value
    seconds = time.monotonic() - begun
    saved = f"saved {counted(len(images), 'image')}: {arguments.file}, {megabytes(size)}"
    print(f"{saved}, in {seconds:.1f} s")
    return 0


@contextlib.contextmanager
def _cleaning_up() -> Iterator[None]:
    """Turn SIGTERM, with which CI cancels a job, into an exit that removes the unfinished file."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
