"""The arguments of ``orchestrator test``: unittest's own, and ours."""

from __future__ import annotations

import argparse
import math
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import OrchestratorError

QUIET, NORMAL, VERBOSE = 0, 1, 2
_DISCOVER: Final = "discover"
_DISCOVERY_PLACES: Final = ("start", "pattern", "top")


class UsageError(OrchestratorError):
    """The command line asks for something that cannot be done."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Which part of the classes to run: ``number`` of ``count``, from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for.

    Attributes:
        names: Dotted names or paths of tests; empty for discovery.
        keep: ``-k`` patterns; a test that matches any of them runs.
        jobs: How many workers, or None for as many as CPUs and memory allow.
        timeout: Seconds each class may take, or None.
        shuffle: The seed to shuffle by, ``""`` for a fresh one, or None for no shuffling.
        durations: How many of the slowest tests to list, 0 for all, or None.
        rerun_crashed: Whether the unfinished tests of a crashed class run once more.
    """

    names: tuple[str, ...] = ()
    start: str = "."
    pattern: str = "test*.py"
    top: str | None = None
    keep: tuple[str, ...] = ()
    verbosity: int = NORMAL
    failfast: bool = False
    buffer: bool = False
    tb_locals: bool = False
    durations: int | None = None
    jobs: int | None = None
    timeout: float | None = None
    shuffle: str | None = None
    shard: Shard | None = None
    junit: Path | None = None
    logs: Path | None = None
    timeline: Path | None = None
    rerun_crashed: bool = True


def configure(parser: argparse.ArgumentParser) -> None:
    """Add every argument to a parser."""
    parser.usage = (
        f"{parser.prog} [options] [name ...]\n"
        f"       {parser.prog} [options] discover [-s START] [-p PATTERN] [-t TOP]"
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help="test modules, classes, methods, files or folders; discovery when there is none",
    )
    _add_unittest(parser.add_argument_group("as in unittest"))
    _add_discovery(parser.add_argument_group("discovery, as in unittest"))
    _add_parallel(parser.add_argument_group("parallel runs"))


def _add_unittest(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("-v", "--verbose", dest="verbosity", action="store_const", const=VERBOSE, default=NORMAL)
    add("-q", "--quiet", dest="verbosity", action="store_const", const=QUIET)
    add("--locals", dest="tb_locals", action="store_true", help="show local variables")
    add("--durations", type=_count, metavar="N", help="show the N slowest tests (0 for all)")
    add("-f", "--failfast", action="store_true", help="stop on the first failure or error")
    add("-c", "--catch", action="store_true", help="accepted; Ctrl-C always ends with a report")
    add("-b", "--buffer", action="store_true", help="show output of failing tests only")
    add(
        "-k",
        dest="keep",
        action="append",
        metavar="PATTERN",
        type=_pattern,
        help="only tests whose name matches",
    )


def _add_discovery(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("-s", "--start-directory", dest="start", metavar="START", help="where to start ('.')")
    add("-p", "--pattern", dest="pattern", metavar="PATTERN", help="file names ('test*.py')")
    add("-t", "--top-level-directory", dest="top", metavar="TOP", help="top of the project")


def _add_parallel(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "-j",
        "--jobs",
        type=_jobs,
        metavar="N",
        help="worker processes; auto (the default): what CPUs and memory allow",
    )
    add("--junit", type=_file, metavar="FILE", help="write a JUnit XML report")
    add("--timeout", type=_seconds, metavar="SECONDS", help="the time each test class has")
    add(
        "--shuffle",
        nargs="?",
        const="",
        type=_seed,
        metavar="SEED",
        help="random order of classes and tests; the seed is printed",
    )
    add("--shard", type=_shard, metavar="K/N", help="run the K-th of N parts of the classes")
    add("--logs", type=_folder, metavar="DIR", help="keep the logs of every class's services")
    add(
        "--timeline",
        type=_file,
        metavar="FILE.html",
        help="write a page that shows what the start of each class waited for",
    )
    add(
        "--rerun-crashed",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run what a crash left over once more (the default)",
    )


def parsed(arguments: argparse.Namespace) -> Options:
    """Read parsed arguments.

    Raises:
        UsageError: They contradict each other.
    """
    values = {
        name: getattr(arguments, name)
        for name in Options.__dataclass_fields__
        if name not in ("names", "keep", *_DISCOVERY_PLACES)
    }
    return Options(**values, keep=tuple(arguments.keep or ()), **_selection(arguments))


def _selection(arguments: argparse.Namespace) -> dict[str, Any]:
    """Names, or where to discover them."""
    names = tuple(arguments.names)
    given = {place: getattr(arguments, place) for place in _DISCOVERY_PLACES}
    discovery = {place: value for place, value in given.items() if value is not None}
    if names and names[0].lower() == _DISCOVER:
        places = names[1:]
        if len(places) > len(_DISCOVERY_PLACES):
            raise UsageError(f"discover takes start, pattern and top, not {len(places)} values")
        return discovery | dict(zip(_DISCOVERY_PLACES, places, strict=False))
    if names and discovery:
        raise UsageError("-s, -p and -t belong to discovery: leave the names out, or them")
    return {"names": names, **discovery}


def _pattern(text: str) -> str:
    """A ``-k`` without a star matches anywhere, as in unittest."""
    return text if "*" in text else f"*{text}*"


def _jobs(text: str) -> int | None:
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a number of workers, or auto, not {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"expected a whole number, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of seconds, not {text!r}")
    return seconds


def _seed(text: str) -> str:
    if text and not (text.isascii() and text.isdigit()):  # empty: argparse checks const, too
        raise argparse.ArgumentTypeError(
            f"expected a whole number, not {text!r}; "
            "write --shuffle behind the names, or --shuffle=SEED"
        )
    return text


def _shard(text: str) -> Shard:
    found = re.fullmatch("([0-9]+)/([0-9]+)", text)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise argparse.ArgumentTypeError(
            f"expected K/N with K from 1 to N, such as 2/4, not {text!r}"
        )
    return Shard(number=number, count=count)


def _file(text: str) -> Path:
    path = Path(text)
    with suppress(OSError):  # it is not ours to look at: writing it will say so
        if path.is_dir():
            raise argparse.ArgumentTypeError(f"expected a file, but {text!r} is a folder")
    return path


def _folder(text: str) -> Path:
    path = Path(text)
    with suppress(OSError):
        if path.exists() and not path.is_dir():
            raise argparse.ArgumentTypeError(f"expected a folder, but {text!r} is a file")
    return path
