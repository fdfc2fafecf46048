"""Show what is running now, by session, class and service."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from orchestrator.cli import table
from orchestrator.cli.reap import as_json, print_refused
from orchestrator.engine import connect
from orchestrator.errors import printable
from orchestrator.sessions import Liveness, inventory
from orchestrator.settings import Settings

if TYPE_CHECKING:
    import argparse

    from orchestrator.sessions import Owned

_HEAD: Final = ("SESSION", "OWNER", "CLASS", "SERVICE", "KIND", "NAME", "STATUS", "AGE", "IMAGE")
_STEPS: Final = ((86400, "d"), (3600, "h"), (60, "m"))


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("--json", action="store_true", help="print a JSON array")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    with contextlib.closing(connect(Settings.from_environment())) as engine:
        found = inventory(engine)
    things = sorted(found.things, key=_order)
    print_refused(found.refused)
    if arguments.json:
        print(json.dumps([as_json(thing) for thing in things], indent=2))
    elif things:
        now = datetime.now(UTC)
        print(table([_HEAD, *(_row(thing, now=now) for thing in things)]))
        if any(thing.owner is not Liveness.ALIVE for thing in things):
            print("\n`python -m orchestrator reap` removes what dead owners left.")
    else:
        print("nothing is running")
    return 0


def _order(thing: Owned) -> tuple[str, ...]:
    return thing.session, thing.test_class, thing.service, thing.kind, thing.name


def _row(thing: Owned, *, now: datetime) -> tuple[str, ...]:
    cells = (
        thing.session[:8],
        f"{thing.owner}: {thing.process}",
        thing.test_class,
        thing.service,
        thing.kind,
        thing.name,
        thing.status,
        _age(thing.age(now)),
        thing.image,
    )
    return tuple(printable(cell, lines=False) or "-" for cell in cells)


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for length, unit in _STEPS:
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{max(0, seconds):.0f}s"
