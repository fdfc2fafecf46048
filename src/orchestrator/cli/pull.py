"""Pull every image of images.lock that is not on this machine yet, in parallel.

Images are pulled by digest, checked, and given the tag of their entry. Network failures and an
overloaded registry are tried again; a registry that stalls counts as failed after
ORCHESTRATOR_ENGINE_TIMEOUT seconds. One failing image does not stop the others.

exit status:
  0  every image is here
  1  failures of several kinds, or of another kind than those below
  2  wrong arguments, a broken images.lock, a registry that is not allowed, no daemon
  3  network: not reached, cut off, stalled
  4  access denied: log in
  5  not found: the registry has no such image or platform
  6  digest mismatch: other bytes came than the locked ones
  7  no space left
  8  the registry is overloaded or limits the rate
  9  the registry's certificate is not trusted
  130  interrupted; what was under way is given up, on the daemon too
"""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import time
from typing import TYPE_CHECKING, Final

from orchestrator.cli import at_least_one, counted
from orchestrator.engine import connect, find_endpoint
from orchestrator.engine.api import image_info
from orchestrator.errors import EngineError
from orchestrator.images import find_lock
from orchestrator.images.failures import Retry, exit_status
from orchestrator.images.lockfile import check_allowed
from orchestrator.images.presence import find_image, in_place
from orchestrator.images.pull import Display, Puller, megabytes
from orchestrator.settings import Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from orchestrator.engine.api import ImageInfo
    from orchestrator.images import LockedImage
    from orchestrator.images.presence import Presence

_TIMEOUT: Final = 5.0  # seconds
_PIECE: Final = 1 << 16


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries to pull (default: all)")
    parser.add_argument(
        "--platform", metavar="OS/ARCH", help="pull for another platform, such as linux/arm64"
    )
    parser.add_argument(
        "--attempts", type=at_least_one, default=5, metavar="N", help="tries per image (default: 5)"
    )
    parser.add_argument("--quiet", "-q", action="store_true", help="say only what went wrong")


def run(arguments: argparse.Namespace) -> int:
    """Pull, and say how it went."""
    settings = Settings.from_environment()
    lock = find_lock(settings)
    images = lock.select(arguments.names)
    check_allowed(images, settings=settings)
    begun = time.monotonic()
    found = _found(images, settings)
    here = all(image.name in found and in_place(found[image.name], image) for image in images)
    if here and arguments.platform is None:
        if not arguments.quiet:
            print(f"{counted(len(images), 'image')}, all present")
        return 0
    with contextlib.closing(connect(settings)) as engine:
        puller = Puller(
            engine=engine,
            settings=settings,
            display=Display(quiet=arguments.quiet),
            retry=Retry(attempts=arguments.attempts),
        )
        pulled = puller.pull_missing(images, found=found, platform=arguments.platform)
    if not arguments.quiet:
        came = [one for one in pulled if one.came]
        failed = sum(1 for one in pulled if one.failure)
        present = len(pulled) - len(came) - failed
        print(
            f"{counted(len(pulled), 'image')}: {len(came)} pulled "
            f"({megabytes(sum(one.size for one in came))}), {present} present, {failed} failed, "
            f"in {time.monotonic() - begun:.1f} s"
        )
    return exit_status(one.failure for one in pulled if one.failure)


def _found(images: Sequence[LockedImage], settings: Settings) -> Mapping[str, Presence]:
    """Look for each entry's image without docker-py, which takes 0.1 s to import.

    `pull` runs in front of every CI job and mostly finds everything in place. Nothing where the
    daemon cannot be asked in this way: then it is asked once docker-py is there.
    """
    try:
        path = find_endpoint().socket
        if path is None:
            return {}
        find = functools.partial(_find, path)
        return {image.name: find_image(find, image, settings=settings) for image in images}
    except (EngineError, OSError, ValueError, KeyError, TypeError):
        return {}


def _find(path: str, reference: str, /) -> ImageInfo | None:
    """The image under a reference, digest or id, asked for in a few bytes through a unix socket.

    Even the standard library's HTTP client would take a third of the time. With HTTP/1.0 the daemon
    sends the body as it is and closes the connection. Any other answer is an exception here.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_TIMEOUT)
        client.connect(path)
        client.sendall(f"GET /images/{reference}/json HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(_PIECE), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return None if head.split(b" ", 2)[1:2] == [b"404"] else image_info(json.loads(body))
