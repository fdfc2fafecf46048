"""Load images that `save` wrote, after checking that they are the locked ones.

Every image is verified against images.lock before the daemon gets the end of the archive, so that
nothing is loaded from one that is cut off, damaged, saved for another images.lock, or has anything
that images.lock does not lock. Where there is no images.lock, the archive's entries are written
into a new one in the working directory. A file of plain `docker save` is loaded when images.lock
knows the config digests of its images. An image that images.lock knows by the registry's digest
alone needs an archive with what leads from that to the image, which `save` puts there; the digests
of its platform are then noted in images.lock.

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
from orchestrator.images.lock import write_entries
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
            loaded = load_images(engine, arguments.file, lock, settings=settings)
        except EngineUnavailableError:
            raise
        except OrchestratorError as error:
            print(f"orchestrator load: {error}", file=sys.stderr)
            return classify(error).value
    images = loaded.entries
    for image in images:
        print(f"{image.reference.familiar}: loaded and verified")
    if loaded.noted and not lock.is_default:
        print(f"wrote {lock.path}: the digests by which {', '.join(loaded.noted)} is known here")
    print(f"{counted(len(images), 'image')} in {time.monotonic() - begun:.1f} s")
    if lock.is_default:
        print(f"wrote {write_entries(lock, images)}: there was no images.lock")
    elif missing := sorted(lock.entries.keys() - {image.name for image in images}):
        text = f"not in the archive: {', '.join(missing)}. Run: python -m orchestrator pull"
        print(f"orchestrator load: {text}", file=sys.stderr)
        return Failure.NOT_FOUND.value
    return 0
