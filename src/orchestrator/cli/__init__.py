"""``python -m orchestrator``: `test`, where the other commands are, and what they have in common.

A command is a function called like it, whose docstring is its help; it takes the parsed arguments,
which `argument` declares above it, and returns the exit status.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import orchestrator
from orchestrator.errors import OrchestratorError, did_you_mean, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeAlias

    Command: TypeAlias = Callable[[argparse.Namespace], int]

COMMANDS: Final = {
    "doctor": "cli.doctor",
    "load": "cli.images",
    "lock": "cli.images",
    "ps": "cli.inventory",
    "pull": "cli.images",
    "reap": "cli.inventory",
    "save": "cli.images",
    "snapshots": "cli.inventory",
    "test": "cli",
    "warm": "cli.inventory",
}
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
        module: Any = importlib.import_module(f"orchestrator.{COMMANDS[name]}")
        command = getattr(module, name)
        text = inspect.getdoc(command) or ""
        subparser = subparsers.add_parser(
            name,
            help=text.partition("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        groups: Any = defaultdict(subparser.add_mutually_exclusive_group)
        for names, one_of, options in vars(command).get("arguments", ()):
            (groups[one_of] if one_of else subparser).add_argument(*names, **options)
        if command is test:
            from orchestrator.runner import options as options_of_test

            options_of_test.configure(subparser)
        subparser.set_defaults(run=command)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"orchestrator {orchestrator.__version__}")
        parser.exit()


def argument(*names: str, one_of: str = "", **options: Any) -> Callable[[Command], Command]:
    """Declare an argument of the command below, as `add_argument` does; of a group only one."""

    def declare(command: Command) -> Command:
        vars(command).setdefault("arguments", []).insert(0, (names, one_of, options))
        return command

    return declare


def test(arguments: argparse.Namespace) -> int:
    """Run unittest tests in parallel, class by class; a crash loses nothing.

    Names, paths and options are those of ``python -m unittest``; without a name, tests are
    discovered. The exit status is 0 when everything passed, 1 for failures, crashes and tests that
    did not run, 2 for a wrong command line, 3 when the tests could not be collected, 5 when there
    were none, and 130 after an interrupt. With --retries, a test that fails first and passes then
    is FLAKY: it is counted and reported as that, and leaves the status 0.
    """
    from orchestrator.runner import options

    chosen = options.parsed(arguments)
    from orchestrator.runner.run import run_tests  # a wrong command line is told at once

    return run_tests(chosen)


def counted(count: int, thing: str) -> str:
    """A number and a noun, such as ``2 images``."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def table(head: Sequence[str], found: Iterable[Sequence[str]]) -> str:
    """Lay out rows in columns; what is in them may be from outside."""
    rows = [head, *([printable(cell, lines=False) or "-" for cell in row] for row in found)]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
