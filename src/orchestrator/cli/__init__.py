"""``python -m orchestrator``: one file per command, and here what several have in common.

A command is a module of this room with a one-line docstring (its help), ``configure(parser)``,
which adds its arguments, and ``run(arguments)``, which does the work and returns the exit status.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orchestrator
from orchestrator.errors import OrchestratorError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS: Final = (
    *("doctor", "load", "lock", "ps", "pull"),
    *("reap", "save", "snapshots", "test", "warm"),
)
USER_ERROR: Final = 2
INTERRUPTED: Final = 130  # as a shell says it of a program that SIGINT ended
NO_READER: Final = 141  # the same of SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    A user's mistake and a refusing daemon end as one readable message on stderr and status 2,
    Ctrl-C as one line and status 130.
    """
    argv = sys.argv[1:] if argv is None else argv
    arguments = _parser(argv).parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        if sys.stdout is not None:  # it may have been closed from the start
            sys.stdout.flush()
    except OrchestratorError as error:
        print(f"orchestrator {arguments.command}: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"orchestrator {arguments.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read has what it wanted, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return NO_READER
    return status


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for a command line: only the command it names is imported."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator",
        description="Real services in unittest test cases, and what to do about them by hand.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        hint = did_you_mean(argv[0], COMMANDS, otherwise="there are")
        parser.error(f"there is no command {argv[0]!r}{hint}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    named = [name for name in COMMANDS if argv and argv[0] == name]
    for name in named or COMMANDS:
        module = importlib.import_module(f"orchestrator.cli.{name}")
        summary = (module.__doc__ or "").strip().splitlines()[0]
        subparser = subparsers.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(subparser)
        subparser.set_defaults(run=module.run)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"orchestrator {orchestrator.__version__}")
        parser.exit()


def archive(text: str) -> Path:
    """An argument that names an archive."""
    if text == "-":
        raise argparse.ArgumentTypeError(
            "an archive is a file, not a stream: only a whole one can be verified"
        )
    return Path(text)


def at_least_one(text: str) -> int:
    """An argument that is a number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def counted(count: int, thing: str) -> str:
    """A number and a noun, such as ``2 images``."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows in columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
