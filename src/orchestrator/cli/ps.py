"""Show what is running now, by session, class and service."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from orchestrator.cli import table
from orchestrator.cli.reap import as_json, print_refused
from orchestrator.engine import connect
from orchestrator.environment.warm import keepers
from orchestrator.errors import printable
from orchestrator.sessions import Liveness, inventory
from orchestrator.settings import Settings

if TYPE_CHECKING:
    import argparse

    from orchestrator.engine.docker import Engine
    from orchestrator.sessions import Owned

_HEAD: Final = ("SESSION", "OWNER", "CLASS", "SERVICE", "KIND", "ID", "STATUS", "AGE", "IMAGE")
_SHORT: Final = 12  # characters of an id, as docker shows it
_STEPS: Final = ((86400, "d"), (3600, "h"), (60, "m"))


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("--json", action="store_true", help="print a JSON array")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    with contextlib.closing(connect(Settings.from_environment())) as engine:
        found = inventory(engine)
        things = [it for it in found.things if not it.snapshot]  # which `snapshots` shows
        things.sort(key=lambda it: (it.session, it.test_class, it.service, it.id))
        print_refused(found.refused)
        if arguments.json:
            print(json.dumps([as_json(thing) for thing in things], indent=2))
            return 0
        names = {image: _name(engine, image) for image in {it.image for it in things if it.image}}
    now = datetime.now(UTC)
    warm = {keeper["session"] for keeper in keepers() if not keeper["taker"]}
    rows = [
        _row(it, now=now, image=names.get(it.image, ""), warm=it.session in warm)
        for it in things
        if not it.is_marker
    ]
    print(table([_HEAD, *rows]) if rows else "nothing is running")
    dead = sum(it.owner is not Liveness.ALIVE and not it.kept for it in things)
    if dead:
        print(
            f"\n{dead} of owners that are dead, or not known to live: "
            "`python -m orchestrator reap` removes what dead owners left."
        )
    if any(it.session in warm for it in things):
        print("\nWhat is warm is unused, for the next run: `python -m orchestrator warm --stop`.")
    if any(it.kept for it in things):
        print("\nWhat is kept is of classes that failed: until their next run, or `reap`.")
    return 0


def _name(engine: Engine, image: str) -> str:
    """The name that people know an image by, where it has one."""
    found = engine.images.find(image)
    name = found.tags[0] if found and found.tags else image.removeprefix("sha256:")[:_SHORT]
    return name.removeprefix("docker.io/").removeprefix("library/")


def _row(thing: Owned, *, now: datetime, image: str, warm: bool) -> tuple[str, ...]:
    cells = (
        thing.session[:8],
        f"{thing.owner}: {thing.process}",
        thing.test_class,
        thing.service,
        thing.kind,
        thing.id if thing.kind == "volume" else thing.id.rpartition(":")[2][:_SHORT],
        f"{thing.status or '-'}{', kept' if thing.kept else ', warm' if warm else ''}",
        age(thing.age(now)),
        thing.id if thing.kind == "image" else image,
    )
    return tuple(printable(cell, lines=False) or "-" for cell in cells)


def age(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return "-"
    for length, unit in _STEPS:
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{max(0, seconds):.0f}s"
