"""List the snapshots of prepared Postgres servers, or remove them.

A class whose declaration, image, init files and migrations were met before starts from such a
snapshot. The least recently used ones go by themselves, beyond the size that ORCHESTRATOR_SNAPSHOTS
says (2g; 0 makes and uses none).

Exit status: 0; 1 when something would not go; 2 on a usage error or without a daemon.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from orchestrator.cli import counted, table
from orchestrator.cli.ps import age
from orchestrator.engine import connect
from orchestrator.errors import printable
from orchestrator.sessions import list_snapshots, remove_snapshots
from orchestrator.settings import Settings

if TYPE_CHECKING:
    import argparse

_HEAD: Final = ("SNAPSHOT", "CLASS", "SERVICE", "SIZE", "USED", "VOLUME")
_SHORT: Final = 12  # characters of a key
_MEGABYTE: Final = 1 << 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("--clear", action="store_true", help="remove all of them")
    parser.add_argument("--json", action="store_true", help="print a JSON array")


def run(arguments: argparse.Namespace) -> int:
    """Print the table, or remove what would be in it."""
    with contextlib.closing(connect(Settings.from_environment())) as engine:
        found = list_snapshots(engine)
        left = remove_snapshots(engine, found) if arguments.clear else ()
    for thing in left:
        told = printable(f"could not remove {thing.name}: {thing.reason}", lines=False)
        print(told, file=sys.stderr)
    if arguments.json:
        rows = [dataclasses.asdict(it) for it in found]
        for row in rows:
            row["class"], row["used"] = row.pop("test_class"), row["used"].isoformat()
        print(json.dumps(rows, indent=2))
    elif arguments.clear:
        print(f"removed {counted(len(found), 'snapshot')}")
    else:
        now = datetime.now(UTC)
        cells = [
            (
                it.key[:_SHORT],
                it.test_class or "-",
                it.service or "-",
                f"{it.size / _MEGABYTE:.0f}m",
                age((now - it.used).total_seconds() if it.used else None),
                it.volume,
            )
            for it in found
        ]
        shown = [tuple(printable(cell, lines=False) for cell in row) for row in cells]
        print(table([_HEAD, *shown]) if shown else "there are no snapshots")
    return 1 if left else 0
