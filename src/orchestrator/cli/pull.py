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
import json
import socket
import sys
import time
from typing import TYPE_CHECKING, Final

from orchestrator.cli import at_least_one, counted
from orchestrator.engine import connect, find_endpoint
from orchestrator.engine.api import image_info
from orchestrator.errors import EngineError
from orchestrator.images import find_lock
from orchestrator.images.display import Display, megabytes
from orchestrator.images.failures import Retry, exit_status
from orchestrator.images.lockfile import check_allowed
from orchestrator.images.presence import find_image, in_place
from orchestrator.images.pull import pull_images
from orchestrator.settings import Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from orchestrator.engine.api import ImageInfo
    from orchestrator.engine.endpoint import Endpoint
    from orchestrator.images import LockedImage
    from orchestrator.images.presence import Presence
    from orchestrator.images.pull import Pulled

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
        pulled = pull_images(
            engine,
            images,
            settings=settings,
            display=Display(sys.stderr, quiet=arguments.quiet),
            found=found,
            platform=arguments.platform,
            retry=Retry(attempts=arguments.attempts),
        )
    if not arguments.quiet:
        print(_totals(pulled, seconds=time.monotonic() - begun))
    return exit_status(one.failure for one in pulled if one.failure)


def _found(images: Sequence[LockedImage], settings: Settings) -> Mapping[str, Presence]:
    """Look for each entry's image without docker-py, which takes 0.1 s to import.

    `pull` runs in front of every CI job and mostly finds everything in place. Nothing where the
    daemon cannot be asked in this way: then it is asked once docker-py is there.
    """
    try:
        lookup = LocalLookup(find_endpoint())
        return {image.name: find_image(lookup, image, settings=settings) for image in images}
    except EngineError:
        return {}


def _totals(pulled: list[Pulled], *, seconds: float) -> str:
    came = [one for one in pulled if one.came]
    failed = sum(1 for one in pulled if one.failure)
    present = len(pulled) - len(came) - failed
    size = megabytes(sum(one.size for one in came))
    return (
        f"{counted(len(pulled), 'image')}: {len(came)} pulled ({size}), {present} present, "
        f"{failed} failed, in {seconds:.1f} s"
    )


class LocalLookup:
    """A quick look for images through the daemon's unix socket, without docker-py.

    `pull` runs in front of every CI job and mostly finds everything in place. Importing docker-py
    and requests would more than double its time, and even the standard library's HTTP client is a
    third of it. Whatever is not plain here (a remote daemon, TLS, an error) is left to the engine.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._socket = endpoint.socket

    def find(self, reference: str, /) -> ImageInfo | None:
        """The image under a reference, digest or id, or None when it is not on this machine.

        Raises:
            EngineError: It cannot be told in this way.
        """
        if self._socket is None:
            raise EngineError("the daemon is not behind a unix socket")
        try:
            head, _, body = _get(self._socket, f"/images/{reference}/json").partition(b"\r\n\r\n")
            if head.split(b" ", 2)[1:2] == [b"404"]:
                return None
            return image_info(json.loads(body))
        except (OSError, ValueError, KeyError, TypeError) as error:  # also from another status
            raise EngineError(f"no plain answer from {self._socket}: {error}") from error


def _get(path: str, url: str) -> bytes:
    """HTTP/1.0: the daemon sends the body as it is and closes the connection."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_TIMEOUT)
        client.connect(path)
        client.sendall(f"GET {url} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
        return b"".join(iter(lambda: client.recv(_PIECE), b""))
