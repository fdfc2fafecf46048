"""The commands about what we have at the engine: `ps`, `reap`, `snapshots` and `warm`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TextIO

from orchestrator import sessions
from orchestrator.cli import argument, counted, table
from orchestrator.environment import warm as warm_keepers
from orchestrator.environment.late_engine import LateEngine
from orchestrator.errors import OrchestratorError, printable
from orchestrator.settings import Settings, duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.engine.docker import Engine
    from orchestrator.sessions import Owned

_RUNNING: Final = ("SESSION", "OWNER", "CLASS", "SERVICE", "KIND", "ID", "STATUS", "AGE", "IMAGE")
_SNAPSHOTS: Final = ("SNAPSHOT", "CLASS", "SERVICE", "SIZE", "USED", "VOLUME")
_WARM: Final = ("CLASS", "STATE", "SERVICES", "SESSION", "PID", "FOLDER")
_STATES: Final = {
    "waits": "made when the run ends",
    "queued": "made after another",
    "made": "being made",
}
_SHORT: Final = 12  # characters of an id, as docker shows it
_STEPS: Final = ((86400, "d"), (3600, "h"), (60, "m"))
_UUID_LENGTH: Final = 36
_MEGABYTE: Final = 1 << 20


@argument("--json", action="store_true", help="print a JSON array")
def ps(arguments: argparse.Namespace) -> int:
    """Show what is running now, by session, class and service."""
    with contextlib.closing(LateEngine(Settings.from_environment())) as engine:
        found = sessions.inventory(engine)
        things = [it for it in found.things if not it.snapshot]  # which `snapshots` shows
        things.sort(key=lambda it: (it.session, it.test_class, it.service, it.id))
        print_refused(found.refused)
        if arguments.json:
            print(json.dumps([as_json(thing) for thing in things], indent=2))
            return 0
        names = {image: _name(engine, image) for image in {it.image for it in things if it.image}}
    now = datetime.now(UTC)
    warm = {keeper["session"] for keeper in warm_keepers.keepers() if not keeper["taker"]}
    rows = [
        _row(it, now=now, image=names.get(it.image, ""), warm=it.session in warm)
        for it in things
        if not it.is_marker
    ]
    print(table(_RUNNING, rows) if rows else "nothing is running")
    dead = sum(it.owner is not sessions.Liveness.ALIVE and not it.kept for it in things)
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
    return (
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


def age(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return "-"
    for length, unit in _STEPS:
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{max(0, seconds):.0f}s"


def seconds(text: str) -> float:
    """Read an age such as ``2h`` or ``1h30m``; a bare number is seconds."""
    try:
        return duration(f"{text}s" if text[-1:].isdigit() else text)
    except ValueError:
        text = f"{text!r} is not an age such as 90s, 30m, 2h or 1d"
        raise argparse.ArgumentTypeError(text) from None


@argument("--dry-run", action="store_true", help="only say what would be removed")
@argument(
    "--all", action="store_true", help="also what living owners use, and what has malformed labels"
)
@argument("--session", metavar="ID", help="only this session (as shown by ps)")
@argument("--run", metavar="ID", dest="run_id", help="only the sessions of this run")
@argument(
    "--older-than",
    metavar="AGE",
    type=seconds,
    help="only what is older, such as 90s, 30m, 2h or 1d; "
    "then also of owners that cannot be judged from here",
)
@argument("--json", action="store_true", help="print one JSON object")
def reap(arguments: argparse.Namespace) -> int:
    """Remove what dead test processes left behind.

    Without options it removes only what provably dead owners left, so it is safe beside running
    tests, in a cron job and in an "always" step of CI. Things of living owners, and of owners that
    cannot be judged from here (on another host, in another container), are kept and named. What
    ORCHESTRATOR_KEEP_FAILED has kept of classes that failed goes too.

    Exit status: 0 when everything that should go is gone; 1 when something would not go, when the
    daemon refuses to list some kind of thing (a filter before its socket may), or when the session
    or run that was asked for still owns something; 2 on a usage error or without a daemon.
    """
    with contextlib.closing(LateEngine(Settings.from_environment())) as engine:
        selection = sessions.Selection(
            everything=arguments.all,
            session=arguments.session and _full_id(engine, arguments.session),
            run=arguments.run_id,
            kept=True,
            older_than=arguments.older_than,
        )
        report = sessions.reap(engine, selection, dry_run=arguments.dry_run)
    if arguments.json:
        spared = {
            kind: [{**as_json(thing), "reason": reason} for thing, reason in found]
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


def _full_id(engine: Engine, text: str) -> str:
    """The session whose id begins with this text; the text itself when there is none."""
    if len(text) >= _UUID_LENGTH:
        return text
    found = {
        thing.session
        for thing in sessions.inventory(engine).things
        if thing.session.startswith(text)
    }
    if len(found) > 1:
        ids = printable(", ".join(sorted(found)), lines=False)
        raise OrchestratorError(f"--session {text} is ambiguous: {ids}")
    return found.pop() if found else text


def _print(report: sessions.ReapReport, *, dry_run: bool) -> None:
    for thing in report.removed:
        _say(f"{'would remove' if dry_run else 'removed'} {_described(thing)}")
    for thing, reason in report.kept:
        _say(f"kept {_described(thing)}: {reason}")
    for thing, reason in report.failed:
        _say(f"could not remove {_described(thing)}: {reason}", file=sys.stderr)
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


@argument("--clear", action="store_true", help="remove all of them")
@argument("--json", action="store_true", help="print a JSON array")
def snapshots(arguments: argparse.Namespace) -> int:
    """List the snapshots of prepared Postgres servers, or remove them.

    A class whose declaration, image, init files and migrations were met before starts from such a
    snapshot. The least recently used ones go by themselves, beyond the size that
    ORCHESTRATOR_SNAPSHOTS says (2g; 0 makes and uses none).

    Exit status: 0; 1 when something would not go; 2 on a usage error or without a daemon.
    """
    with contextlib.closing(LateEngine(Settings.from_environment())) as engine:
        found = sessions.list_snapshots(engine)
        left = sessions.remove_snapshots(engine, found) if arguments.clear else ()
    for thing in left:
        _say(f"could not remove {thing.name}: {thing.reason}", file=sys.stderr)
    if arguments.json:
        values = [dataclasses.asdict(it) for it in found]
        for row in values:
            row["class"], row["used"] = row.pop("test_class"), row["used"].isoformat()
        print(json.dumps(values, indent=2))
    elif arguments.clear:
        print(f"removed {counted(len(found), 'snapshot')}")
    else:
        now = datetime.now(UTC)
        rows = [
            (
                it.key[:_SHORT],
                it.test_class,
                it.service,
                f"{it.size / _MEGABYTE:.0f}m",
                age((now - it.used).total_seconds() if it.used else None),
                it.volume,
            )
            for it in found
        ]
        print(table(_SNAPSHOTS, rows) if rows else "there are no snapshots")
    return 1 if left else 0


@argument("--status", one_of="what", action="store_true", help="show what is kept (the default)")
@argument("--stop", one_of="what", action="store_true", help="remove what is kept unused")
@argument("--json", action="store_true", help="print a JSON array")
def warm(arguments: argparse.Namespace) -> int:
    """Show or end the servers that ORCHESTRATOR_WARM keeps ready for the next run.

    Each class has a keeper, a process that owns its servers until a run takes them over. Those that
    a run uses now are its own until it has done with them; --stop ends all others.
    """
    found = warm_keepers.keepers()
    if arguments.stop:
        unused = [keeper for keeper in found if not keeper["taker"]]
        stopped = [it for it in unused if warm_keepers.stop(it["socket"])]
        print(f"ended {counted(len(stopped), 'keeper')}")
        return 0 if len(stopped) == len(unused) else 1
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        print(table(_WARM, map(_warm_row, found)) if found else "nothing is kept warm")
    return 0


def _warm_row(keeper: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        keeper["class"],
        _warm_state(keeper),
        ", ".join(keeper["services"]),
        keeper["session"][:8],
        str(keeper["pid"]),
        keeper["folder"],
    )


def _warm_state(keeper: Mapping[str, Any]) -> str:
    if keeper["state"] == "taken":
        return f"in use by pid {keeper['taker']}"
    age = time.time() - keeper["since"]
    if keeper["state"] == "ready":
        return f"ready since {age:.0f}s, for {max(0.0, keeper['left']):.0f}s more"
    return _STATES[keeper["state"]]
