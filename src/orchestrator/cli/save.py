"""Write the locked images and their lock entries into one file.

  save images.tar       also .tar.gz and .tar.zst, by the name's ending
  save FILE NAME...     only these entries

The file is what `docker save` writes, with the lock entries in front; it appears when it is whole
and verified. Exit status: that of `pull` for the same failure.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.engine import connect
from orchestrator.errors import EngineUnavailableError, OrchestratorError
from orchestrator.images import find_lock
from orchestrator.images.archive import save_images
from orchestrator.images.failure import classify
from orchestrator.images.transfer import megabytes
from orchestrator.settings import Settings

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="where to: .tar, .tar.gz, .tar.zst")
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries to save (default: all)")


def run(arguments: argparse.Namespace) -> int:
    """Save, and say how large it is."""
    settings = Settings.from_environment()
    images = find_lock(settings).select(arguments.names)
    begun = time.monotonic()
    with contextlib.closing(connect(settings)) as engine:
        try:
            size = save_images(engine, images, arguments.file)
        except EngineUnavailableError:
            raise
        except OrchestratorError as error:
            print(f"orchestrator save: {error}", file=sys.stderr)
            return classify(error).value
    seconds = time.monotonic() - begun
    print(f"saved {len(images)} images: {arguments.file}, {megabytes(size)}, in {seconds:.1f} s")
    return 0
