"""The arguments of ``orchestrator test``: unittest's own, and ours."""

from __future__ import annotations

import argparse
import math
import re
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import OrchestratorError

QUIET, NORMAL, VERBOSE = 0, 1, 2
_DISCOVERY: Final = ("start", "pattern", "top")


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
class Timeouts:
    """How long the parent waits for a worker before it takes the next, harder step, in seconds."""

    unit_class: float | None = None  # for each test class (--timeout)
    finish: float = 10.0  # for the running test, after the first Ctrl-C or the parent's death
    teardown: float = 20.0  # for tearDownClass and clean-ups after an interrupt
    leave: float = 20.0  # for the exit of a worker that has nothing more to do
    dump: float = 0.3  # for the stacks of a hung worker to be written
    collect: float = 10.0  # for collecting, at least: a limit for quick classes is none for imports

    @property
    def collecting(self) -> float | None:
        """How long a worker may collect."""
        return None if self.unit_class is None else max(self.unit_class, self.collect)

    def urgent(self) -> Timeouts:
        """After a SIGTERM: ``docker stop`` and CI systems kill a few seconds later."""
        return replace(self, finish=min(self.finish, 0.5), teardown=min(self.teardown, 1.5))


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for; the workers are given it, too."""

    names: tuple[str, ...] = ()  # dotted names or paths of tests; empty for discovery
    start: str = "."
    pattern: str = "test*.py"
    top: str | None = None
    keep: tuple[str, ...] = ()  # -k patterns; a test that matches any of them runs
    verbosity: int = NORMAL
    failfast: bool = False
    buffer: bool = False
    tb_locals: bool = False
    durations: int | None = None  # how many of the slowest tests to list, 0 for all
    jobs: int | None = None  # None for as many as CPUs and memory allow
    timeouts: Timeouts = field(default_factory=Timeouts)
    shuffle: str | None = None  # the seed, or "" for a fresh one
    shard: Shard | None = None
    junit: str | None = None
    logs: str | None = None
    timeline: str | None = None
    failed: str | None = None  # what failed when it last ran: "only" that, or that "first"
    retries: int = 0  # how often what failed runs again

    @property
    def are_for_all_tests(self) -> bool:
        """Whether no test of the project is left out."""
        usual = self.start == Options.start and self.pattern == Options.pattern
        return usual and not self.names and not self.keep


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
    add = parser.add_argument_group("as in unittest").add_argument
    add("-v", "--verbose", dest="verbosity", action="store_const", const=VERBOSE, default=NORMAL)
    add("-q", "--quiet", dest="verbosity", action="store_const", const=QUIET)
    add("--locals", dest="tb_locals", action="store_true", help="show local variables")
    add("--durations", type=_count, metavar="N", help="show the N slowest tests (0 for all)")
    add("-f", "--failfast", action="store_true", help="stop on the first failure or error")
    add("-c", "--catch", action="store_true", help="accepted; Ctrl-C always ends with a report")
    add("-b", "--buffer", action="store_true", help="show output of failing tests only")
    text = "only tests whose name matches"
    add("-k", dest="keep", action="append", metavar="PATTERN", type=_pattern, help=text)
    add = parser.add_argument_group("discovery, as in unittest").add_argument
    add("-s", "--start-directory", dest="start", metavar="START", help="where to start ('.')")
    add("-p", "--pattern", dest="pattern", metavar="PATTERN", help="file names ('test*.py')")
    add("-t", "--top-level-directory", dest="top", metavar="TOP", help="top of the project")
    add = parser.add_argument_group("parallel runs").add_argument
    text = "worker processes; auto (the default): what CPUs and memory allow"
    add("-j", "--jobs", type=_jobs, metavar="N", help=text)
    add("--junit", type=_file, metavar="FILE", help="write a JUnit XML report")
    add("--timeout", type=_seconds, metavar="SECONDS", help="the time each test class has")
    text = "only what failed when it last ran; everything when nothing did"
    add("--failed", action="store_const", const="only", help=text)
    text = "what failed when it last ran first"
    add("--failed-first", dest="failed", action="store_const", const="first", help=text)
    text = "run what fails up to N times more, with its services started anew; what then passes is "
    text += "told as FLAKY, and counts as passed"
    add("--retries", type=_count, metavar="N", help=text)
    text = "random order of classes and tests; the seed is printed"
    add("--shuffle", nargs="?", const="", type=_seed, metavar="SEED", help=text)
    add("--shard", type=_shard, metavar="K/N", help="run the K-th of N parts of the classes")
    add("--logs", type=_folder, metavar="DIR", help="keep the logs of every class's services")
    text = "write a page that shows what the start of each class waited for"
    add("--timeline", type=_file, metavar="FILE.html", help=text)


def parsed(arguments: argparse.Namespace) -> Options:
    """Read parsed arguments.

    Raises:
        UsageError: They contradict each other.
    """
    said: dict[str, Any] = {
        name: value for name, value in vars(arguments).items() if value is not None
    }
    names = tuple(said["names"])
    if names and names[0].lower() == "discover":
        if len(names) > len(_DISCOVERY) + 1:
            raise UsageError(f"discover takes start, pattern and top, not {len(names) - 1} values")
        said |= dict(zip(_DISCOVERY, names[1:], strict=False))
        names = ()
    elif names and any(place in said for place in _DISCOVERY):
        raise UsageError("-s, -p and -t belong to discovery: leave the names out, or them")
    said |= {"names": names, "keep": tuple(said.get("keep", ()))}
    said["timeouts"] = Timeouts(unit_class=arguments.timeout)
    return Options(**{it.name: said[it.name] for it in fields(Options) if it.name in said})


def _pattern(text: str) -> str:
    return text if "*" in text else f"*{text}*"  # matches anywhere, as in unittest


def _wrong(expected: str, text: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"expected {expected}, not {text!r}")


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]+", text):
        raise _wrong("a whole number", text)
    return int(text)


def _jobs(text: str) -> int | None:
    if text == "auto":
        return None
    if not re.fullmatch("0*[1-9][0-9]*", text):
        raise _wrong("a number of workers, or auto", text)
    return int(text)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise _wrong("a number of seconds", text)


def _seed(text: str) -> str:
    if not re.fullmatch("[0-9]*", text):  # empty: argparse checks const, too
        raise _wrong("a whole number (--shuffle=SEED, or write --shuffle behind the names)", text)
    return text


def _shard(text: str) -> Shard:
    found = re.fullmatch("([0-9]+)/([0-9]+)", text)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise _wrong("K/N with K from 1 to N, such as 2/4", text)
    return Shard(number=number, count=count)


def _file(text: str) -> str:
    with suppress(OSError):  # it is not ours to look at: writing it will say so
        if Path(text).is_dir():
            raise argparse.ArgumentTypeError(f"expected a file, but {text!r} is a folder")
    return text


def _folder(text: str) -> str:
    with suppress(OSError):
        if Path(text).exists() and not Path(text).is_dir():
            raise argparse.ArgumentTypeError(f"expected a folder, but {text!r} is a file")
    return text
