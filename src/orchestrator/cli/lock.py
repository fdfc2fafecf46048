"""`lock`: images.lock, written and checked against the registries."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from typing import TYPE_CHECKING

from orchestrator.cli import counted, table
from orchestrator.engine import connect
from orchestrator.errors import EngineError, LockError
from orchestrator.images import find_lock
from orchestrator.images.failures import classify, exit_status
from orchestrator.images.lock import NEW, requested, write_entries
from orchestrator.images.lockfile import LockedImage, check_allowed, parse_lock
from orchestrator.images.registry import Registries
from orchestrator.settings import Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from orchestrator.images import LockFile

MOVED = 1


def configure_lock(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lock`."""
    parser.add_argument(
        "names", nargs="*", metavar="REF|NAME", help="what to lock, update or check"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--update", action="store_true", help="lock what the tags stand for now")
    what.add_argument("--check", action="store_true", help="only compare; status 1 when one moved")
    what.add_argument("--hash", action="store_true", help="print a key for CI caches")


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
        answers = registries.ask(images, report=_report)
    for image in answers:
        if isinstance(image, LockedImage) and image.platforms and not image.on(registries.platform):
            _report(
                f"{image.reference.familiar} is not made for {registries.platform}, which this "
                f"machine runs: it is for {', '.join(image.platforms)}"
            )
    if arguments.check:
        return _check(images, answers, lock)
    return _write(answers, lock)


def _check(
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
        _report(str(error))
    return exit_status(classify(error) for error in errors)


def _short(digest: str | None) -> str:
    return digest.removeprefix("sha256:")[:12] if digest else "-"


def _report(line: str) -> None:
    print(f"orchestrator lock: {line}", file=sys.stderr)
