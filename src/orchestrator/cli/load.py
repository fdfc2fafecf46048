"""Load images that `save` wrote, after checking that they are the locked ones.

The archive is read before the daemon gets it, so that nothing is loaded from one that is cut off,
saved for another images.lock, or has anything that images.lock does not lock; what `docker save`
wrote is one, too. What the daemon then has is compared with images.lock, and put back where that
does not fit. An image is known by the digests of its platforms, which `lock` notes.

exit status:
  0  loaded and verified
  1  the archive is cut off, damaged, not one of images, or from a registry that is not allowed
  2  wrong arguments, a broken images.lock, no daemon
  5  loaded, but the archive lacks images that images.lock has
  6  the archive does not match images.lock; nothing was loaded
  7  no space left
  130  interrupted
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

from orchestrator.cli import archive, counted
from orchestrator.engine import connect
from orchestrator.errors import EngineUnavailableError, OrchestratorError
from orchestrator.images import find_lock
from orchestrator.images.archive import load_images
from orchestrator.images.failures import Failure, classify
from orchestrator.settings import Settings

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("file", type=archive, metavar="FILE", help="what `save` wrote")


def run(arguments: argparse.Namespace) -> int:
    """Load, and say what came."""
    settings = Settings.from_environment()
    lock = find_lock(settings)
    begun = time.monotonic()
    with contextlib.closing(connect(settings)) as engine:
        try:
            images = load_images(engine, arguments.file, lock, settings=settings)
        except EngineUnavailableError:
            raise
        except OrchestratorError as error:
            print(f"orchestrator load: {error}", file=sys.stderr)
            return classify(error).value
    for image in images:
        print(f"{image.reference.familiar}: loaded and verified")
    print(f"{counted(len(images), 'image')} in {time.monotonic() - begun:.1f} s")
    if missing := sorted(lock.entries.keys() - {image.name for image in images}):
        text = f"not in the archive: {', '.join(missing)}. Run: python -m orchestrator pull"
        print(f"orchestrator load: {text}", file=sys.stderr)
        return Failure.NOT_FOUND.value
    return 0
