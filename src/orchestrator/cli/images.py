"""The commands about images: `lock`, `pull`, `save` and `load`."""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.cli import argument, counted, table
from orchestrator.engine import connect, find_endpoint
from orchestrator.engine.api import image_info
from orchestrator.errors import EngineError, EngineUnavailableError, LockError, OrchestratorError
from orchestrator.images import find_lock
from orchestrator.images.failures import Failure, classify, exit_status
from orchestrator.images.lockfile import LockedImage, check_allowed, parse_lock
from orchestrator.images.presence import find_image, in_place
from orchestrator.images.pull import Display, Puller, megabytes
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType

    from orchestrator.engine.api import ImageInfo
    from orchestrator.images import LockFile
    from orchestrator.images.presence import Presence

_TIMEOUT: Final = 5.0  # seconds
_PIECE: Final = 1 << 16
MOVED: Final = 1  # the exit status of `lock --check` when a tag has moved


def _archive(text: str) -> Path:
    if text == "-":
        raise argparse.ArgumentTypeError(
            "an archive is a file, not a stream: only a whole one can be verified"
        )
    return Path(text)


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


@argument("names", nargs="*", metavar="NAME", help="entries to pull (default: all)")
@argument("--platform", metavar="OS/ARCH", help="pull for another platform, such as linux/arm64")
@argument("--attempts", type=_at_least_one, default=5, metavar="N", help="tries per image (5)")
@argument("--quiet", "-q", action="store_true", help="say only what went wrong")
def pull(arguments: argparse.Namespace) -> int:
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
            attempts=arguments.attempts,
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


@argument("file", type=_archive, metavar="FILE", help="where to: .tar, .tar.gz, .tar.zst")
@argument("names", nargs="*", metavar="NAME", help="entries to save (default: all)")
def save(arguments: argparse.Namespace) -> int:
    """Write the locked images into one file.

      save images.tar       also .tar.gz and .tar.zst, by the name's ending
      save FILE NAME...     only these entries

    The file is what `docker save` writes; it appears when it is whole. In it an image is known by
    the digest of its platform, so an entry that has none is refused: `lock` notes it. Exit status:
    that of `pull` for the same failure.
    """
    from orchestrator.images.archive import save_images  # `pull` has no need of it

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


@argument("file", type=_archive, metavar="FILE", help="what `save` wrote")
def load(arguments: argparse.Namespace) -> int:
    """Load images that `save` wrote, after checking that they are the locked ones.

    The archive is read before the daemon gets it, so that nothing is loaded from one that is cut
    off, saved for another images.lock, or has anything that images.lock does not lock; what `docker
    save` wrote is one, too. What the daemon then has is compared with images.lock, and put back
    where that does not fit. An image is known by the digests of its platforms, which `lock` notes.

    exit status:
      0  loaded and verified
      1  the archive is cut off, damaged, not one of images, or from a registry that is not allowed
      2  wrong arguments, a broken images.lock, no daemon
      5  loaded, but the archive lacks images that images.lock has
      6  the archive does not match images.lock; nothing was loaded
      7  no space left
      130  interrupted
    """
    from orchestrator.images.archive import load_images  # `pull` has no need of it

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


@argument("names", nargs="*", metavar="REF|NAME", help="what to lock, update or check")
@argument("--update", one_of="what", action="store_true", help="lock what the tags stand for now")
@argument(
    "--check", one_of="what", action="store_true", help="only compare; status 1 when one moved"
)
@argument("--hash", one_of="what", action="store_true", help="print a key for CI caches")
def lock(arguments: argparse.Namespace) -> int:
    """Write or refresh images.lock from the registries, and check whether they have moved on.

      lock REF...             add images, or move an entry to another tag
      lock NAME=REF           the same under a name of your choice
      lock                    add what is missing to the entries there are; moves nothing
      lock --update [NAME...] lock what the tags stand for now, and show old -> new
      lock --check [NAME...]  compare only, for a weekly job: status 1 when a tag has moved
      lock --hash             a key for CI caches: changes exactly when an image does

    Credentials, credential helpers and certificates are docker's own; ORCHESTRATOR_REGISTRY_MIRROR
    counts. The file is written whole or not at all, with its comments. When one image fails,
    nothing is written, and the exit status is that of `pull` for the same failure.
    """
    from orchestrator.images.lock import NEW, requested  # `pull` has no need of it
    from orchestrator.images.registry import Registries

    settings = Settings.from_environment()
    path = settings.images_lock
    if arguments.names and not arguments.check and path is not None and not path.exists():
        lock = parse_lock(NEW.encode(), path=path)
    else:
        lock = find_lock(settings)
    if arguments.hash:
        if arguments.names:
            raise LockError("lock --hash takes no names: it speaks of the whole file")
        words = sorted(f"{entry.name} {entry}" for entry in lock.entries.values())
        print(hashlib.sha256("\n".join(words).encode()).hexdigest())
        return 0
    if arguments.update or arguments.check:  # to ask what the tags stand for now
        images = [
            LockedImage(name=image.name, reference=image.reference.with_digest(None))
            for image in lock.select(arguments.names)
        ]
    else:
        images = requested(arguments.names, lock) if arguments.names else lock.select([])
    check_allowed(images, settings=settings)
    with contextlib.closing(connect(settings)) as engine:
        registries = Registries.open(engine, settings=settings)
        answers = registries.ask(images, report=_tell)
    for image in answers:
        if isinstance(image, LockedImage) and image.platforms and not image.on(registries.platform):
            _tell(
                f"{image.reference.familiar} is not made for {registries.platform}, which this "
                f"machine runs: it is for {', '.join(image.platforms)}"
            )
    if arguments.check:
        return _check_tags(images, answers, lock)
    return _write(answers, lock)


def _check_tags(
    images: Sequence[LockedImage], answers: Sequence[LockedImage | EngineError], lock: LockFile
) -> int:
    rows = []
    for image, answer in zip(images, answers, strict=True):
        old = lock.entries[image.name].digest
        now = answer.digest if isinstance(answer, LockedImage) else None
        verdict = "unknown" if now is None else "same" if now == old else "MOVED"
        rows.append((image.name, image.reference.familiar, _short(old), _short(now), verdict))
    print(table(("ENTRY", "REFERENCE", "LOCKED", "REGISTRY", ""), rows))
    if failed := _failures(answers):
        return failed
    if any(row[-1] == "MOVED" for row in rows):
        print("\n`python -m orchestrator lock --update` locks what the registry has now.")
        return MOVED
    return 0


def _write(answers: Sequence[LockedImage | EngineError], lock: LockFile) -> int:
    if failed := _failures(answers):
        print("nothing was written", file=sys.stderr)
        return failed
    images = [answer for answer in answers if isinstance(answer, LockedImage)]
    changed = [image for image in images if image != lock.entries.get(image.name)]
    if not changed:
        print(f"{lock.path}: nothing to change")
        return 0
    from orchestrator.images.lock import write_entries

    path = write_entries(lock, images if lock.is_default else changed)
    for image in changed:
        print(_change(lock.entries.get(image.name), image))
    print(f"wrote {path}")
    return 0


def _change(old: LockedImage | None, new: LockedImage) -> str:
    platforms = counted(len(new.platforms), "platform")
    if old is None:
        return f"{new.name}: {new.reference.familiar} {_short(new.digest)}, {platforms}"
    before, after = old.reference.familiar, new.reference.familiar
    tag = f"{before} -> {after} " if before != after else f"{after} "
    if old.digest == new.digest:
        return f"{new.name}: {tag}{_short(new.digest)} unchanged, {platforms}"
    return f"{new.name}: {tag}{_short(old.digest)} -> {_short(new.digest)}, {platforms}"


def _failures(answers: Sequence[LockedImage | EngineError]) -> int:
    errors = [answer for answer in answers if isinstance(answer, EngineError)]
    for error in errors:
        _tell(str(error))
    return exit_status(classify(error) for error in errors)


def _short(digest: str | None) -> str:
    return digest.removeprefix("sha256:")[:12] if digest else "-"


def _tell(line: str) -> None:
    print(f"orchestrator lock: {line}", file=sys.stderr)
