"""Remove what dead test processes left behind.

Without options it removes only what provably dead owners left, so it is safe beside running tests,
in a cron job and in an "always" step of CI. Things of living owners, and of owners that cannot be
judged from here (on another host, in another container), are kept and named. What
ORCHESTRATOR_KEEP_FAILED has kept of classes that failed goes too.

Exit status: 0 when everything that should go is gone; 1 when something would not go, when the
daemon refuses to list some kind of thing (a filter before its socket may), or when the session or
run that was asked for still owns something; 2 on a usage error or without a daemon.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import re
import sys
from typing import TYPE_CHECKING, Any, Final, TextIO

from orchestrator.engine import connect
from orchestrator.errors import OrchestratorError, printable
from orchestrator.sessions import ReapReport, Selection, inventory, reap
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.engine.docker import Engine
    from orchestrator.sessions import Owned

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_UUID_LENGTH: Final = 36


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    parser.add_argument(
        "--all",
        action="store_true",
        help="also what living owners use, and what has malformed labels",
    )
    parser.add_argument("--session", metavar="ID", help="only this session (as shown by ps)")
    parser.add_argument("--run", metavar="ID", dest="run_id", help="only the sessions of this run")
    parser.add_argument(
        "--older-than",
        metavar="AGE",
        type=seconds,
        help="only what is older, such as 90s, 30m, 2h or 1d; "
        "then also of owners that cannot be judged from here",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Reap, and say what went, what stayed and why."""
    with contextlib.closing(connect(Settings.from_environment())) as engine:
        selection = Selection(
            everything=arguments.all,
            session=arguments.session and _full_id(engine, arguments.session),
            run=arguments.run_id,
            kept=True,
            older_than=arguments.older_than,
        )
        report = reap(engine, selection, dry_run=arguments.dry_run)
    if arguments.json:
        spared = {
            kind: [{**as_json(one.thing), "reason": one.reason} for one in found]
            for kind, found in (("kept", report.kept), ("failed", report.failed))
        }
        refused = {"refused": dict(report.refused)} if report.refused else {}
        removed = [as_json(thing) for thing in report.removed]
        found = {"dry_run": arguments.dry_run, "removed": removed, **spared, **refused}
        print(json.dumps(found, indent=2))
    else:
        _print(report, dry_run=arguments.dry_run)
    asked_for = bool(arguments.session or arguments.run_id)
    return 1 if report.failed or report.refused or (asked_for and report.kept) else 0


def seconds(text: str) -> float:
    """Read an age such as ``2h`` or ``1h30m``; a bare number is seconds."""
    if not re.fullmatch(r"([0-9]+(\.[0-9]+)?[smhd])+|[0-9]+(\.[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an age such as 90s, 30m, 2h or 1d")
    parts = re.findall(r"([\d.]+)([smhd]?)", text)
    return sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)


def _full_id(engine: Engine, text: str) -> str:
    """The session whose id begins with this text; the text itself when there is none."""
    if len(text) >= _UUID_LENGTH:
        return text
    found = {thing.session for thing in inventory(engine).things if thing.session.startswith(text)}
    if len(found) > 1:
        ids = printable(", ".join(sorted(found)), lines=False)
        raise OrchestratorError(f"--session {text} is ambiguous: {ids}")
    return found.pop() if found else text


def _print(report: ReapReport, *, dry_run: bool) -> None:
    for thing in report.removed:
        _say(f"{'would remove' if dry_run else 'removed'} {_described(thing)}")
    for spared in report.kept:
        _say(f"kept {_described(spared.thing)}: {spared.reason}")
    for spared in report.failed:
        _say(f"could not remove {_described(spared.thing)}: {spared.reason}", file=sys.stderr)
    print_refused(report.refused)
    if not (report.removed or report.kept or report.failed or report.refused):
        print("nothing to remove")


def print_refused(refused: Mapping[str, str]) -> None:
    """Say on stderr which kinds of things the daemon does not list, and why."""
    for kind, reason in refused.items():
        _say(f"not known which {kind}s there are: {reason}", file=sys.stderr)


def _say(text: str, *, file: TextIO | None = None) -> None:
    """Print one line, with control characters of labels shown as text."""
    print(printable(text, lines=False), file=file)


def _described(thing: Owned) -> str:
    whose = ".".join(part for part in (thing.test_class, thing.service) if part)
    session = f"session {thing.session[:8]}" if thing.session else "no session"
    owner = f"owner {thing.owner}, {thing.process}"
    return f"{thing.kind} {thing.name} ({', '.join(filter(None, (whose, session, owner)))})"


def as_json(thing: Owned) -> dict[str, Any]:
    """A container, network or volume as JSON values; ``class`` is the name users know."""
    values = dataclasses.asdict(thing)
    values["class"] = values.pop("test_class")
    values["created"] = thing.created and thing.created.isoformat()
    return values
