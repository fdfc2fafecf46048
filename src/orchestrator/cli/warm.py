"""Show or end the servers that ORCHESTRATOR_WARM keeps ready for the next run.

Each class has a keeper, a process that owns its servers until a run takes them over. Those that a
run uses now are its own until it has done with them; --stop ends all others.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

from orchestrator.cli import counted, table
from orchestrator.environment import warm
from orchestrator.errors import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

_HEAD: Final = ("CLASS", "STATE", "SERVICES", "SESSION", "PID", "FOLDER")
_STATES: Final = {
    "waits": "made when the run ends",
    "queued": "made after another",
    "made": "being made",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--status", action="store_true", help="show what is kept (the default)")
    what.add_argument("--stop", action="store_true", help="remove what is kept unused")
    parser.add_argument("--json", action="store_true", help="print a JSON array")


def run(arguments: argparse.Namespace) -> int:
    """Print the table, or end the keepers."""
    found = warm.keepers()
    if arguments.stop:
        unused = [keeper for keeper in found if not keeper["taker"]]
        stopped = [it for it in unused if warm.stop(it["socket"])]
        print(f"ended {counted(len(stopped), 'keeper')}")
        return 0 if len(stopped) == len(unused) else 1
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        print(table([_HEAD, *map(_row, found)]) if found else "nothing is kept warm")
    return 0


def _row(keeper: Mapping[str, Any]) -> tuple[str, ...]:
    cells = (
        keeper["class"],
        _state(keeper),
        ", ".join(keeper["services"]),
        keeper["session"][:8],
        str(keeper["pid"]),
        keeper["folder"],
    )
    return tuple(printable(cell, lines=False) or "-" for cell in cells)


def _state(keeper: Mapping[str, Any]) -> str:
    if keeper["state"] == "taken":
        return f"in use by pid {keeper['taker']}"
    age = time.time() - keeper["since"]
    if keeper["state"] == "ready":
        return f"ready since {age:.0f}s, for {max(0.0, keeper['left']):.0f}s more"
    return _STATES[keeper["state"]]
