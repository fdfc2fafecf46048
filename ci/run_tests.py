"""Run the project's tests in one process and count them: what ci/test calls.

`python ci/run_tests.py [-v] [-f] [-k PATTERN] [NAME...]`. A name is a dotted name
(`tests.unit.test_settings`, down to one test) or a path (`tests/unit`); without one, everything
under tests/ except the benchmarks. The figures go to `--summary FILE` too, so that a caller can
repeat them after whatever the process says while it ends.
"""

# ruff: noqa: N802, D102  # what the overridden methods are called and mean is up to unittest

from __future__ import annotations

import argparse
import faulthandler
import signal
import sys
import time
import unittest
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
NOT_BY_DEFAULT = ROOT / "tests" / "benchmarks"

# Seconds after which a test that still runs has its stack printed, again and again.
STUCK = 300.0
# Seconds from which a test, or a class's set-up, is worth a line in the list of the slowest.
SLOW = 1.0
SLOWEST = 15


@dataclass
class Figures:
    """How many tests ended how; a failed class set-up or tear-down counts as one failed."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        """Return the line that ends every run."""
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


@dataclass
class Clock:
    """Where the time went: the tests, and the gaps before them, which are class set-ups."""

    spans: list[tuple[float, str]] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def lap(self, what: str) -> None:
        """Book the time since the last lap as `what`."""
        now = time.monotonic()
        self.spans.append((now - self.since, what))
        self.since = now

    def slowest(self) -> Iterator[str]:
        """Yield a line for each of the slowest spans, slowest first."""
        for seconds, what in sorted(self.spans, reverse=True)[:SLOWEST]:
            if seconds >= SLOW:
                yield f"{seconds:8.2f} s  {what}"


class CountingResult(unittest.TextTestResult):
    """unittest's own result, which also counts every test exactly once and times it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.figures = Figures()
        self.clock = Clock()
        self._verdict: str | None = None
        self._inside = False

    def startTest(self, test: unittest.TestCase) -> None:
        self.clock.lap(f"before {test.id()}")
        self._inside, self._verdict = True, None
        # A test that hangs says where, instead of only outliving everybody's patience.
        faulthandler.dump_traceback_later(STUCK, repeat=True)
        super().startTest(test)

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        faulthandler.cancel_dump_traceback_later()
        self._inside = False
        # No verdict at all means that the test was torn away from under us.
        self._count(self._verdict or "failed")
        self.clock.lap(test.id())

    def _count(self, verdict: str) -> None:
        setattr(self.figures, verdict, getattr(self.figures, verdict) + 1)

    def _note(self, verdict: str) -> None:
        if not self._inside:  # a class's or module's set-up or tear-down
            self._count(verdict)
        elif self._verdict != "failed":  # a later part, such as a clean-up, cannot mend it
            self._verdict = verdict

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self._note("passed")

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._note("failed")

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._note("failed")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._note("skipped")

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self._note("passed")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self._note("failed")

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._note("failed")


def modules_below(directory: Path) -> Iterator[str]:
    """Yield the dotted name of each test module in `directory`, in a stable order."""
    for path in sorted(directory.rglob("test_*.py")):
        if directory == ROOT / "tests" and path.is_relative_to(NOT_BY_DEFAULT):
            continue
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts)


def expand(name: str) -> Iterator[str]:
    """Yield the dotted names that one argument stands for."""
    path = Path(name) if "/" in name or name.endswith(".py") else Path(*name.split("."))
    path = (ROOT / path).resolve()
    if path.is_dir():
        yield from modules_below(path)
    elif path.suffix == ".py" and path.is_file():
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts)
    else:
        yield name


def load(loader: unittest.TestLoader, name: str) -> unittest.TestSuite | unittest.TestCase:
    """Return the tests that a dotted name stands for; a module that does not load is a test too.

    It fails with what its import raised, or is skipped when that was a SkipTest. unittest's own
    loader does this for an ImportError only.
    """
    try:
        return loader.loadTestsFromName(name)
    except Exception as error:  # noqa: BLE001  # the import of a test module may raise anything
        raised = error

    def fail() -> None:
        raise raised

    fail.__name__ = name
    return unittest.FunctionTestCase(fail, description=f"import of {name}")


def run(
    names: Sequence[str], *, patterns: Sequence[str], verbosity: int, failfast: bool
) -> Figures:
    """Run what `names` select, print what unittest prints, and return the figures."""
    loader = unittest.TestLoader()
    loader.testNamePatterns = [p if "*" in p else f"*{p}*" for p in patterns] or None
    suite = unittest.TestSuite(load(loader, dotted) for name in names for dotted in expand(name))
    runner = unittest.TextTestRunner(
        stream=sys.stdout,  # one stream, so that nothing arrives out of order
        verbosity=verbosity,
        failfast=failfast,
        resultclass=CountingResult,
    )
    result = runner.run(suite)
    assert isinstance(result, CountingResult)  # noqa: S101  # for the type checker
    for line in result.clock.slowest():
        print(line)
    return result.figures


def restore_signals() -> None:
    """Take signals as a terminal's processes do.

    A background job of a script ignores SIGINT, nohup adds SIGHUP, and children inherit both: tests
    of Ctrl-C would then wait for ever.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests; return 0 only when at least one ran and none failed."""
    parser = argparse.ArgumentParser(prog="ci/test", description="Run the tests.")
    parser.add_argument("names", nargs="*", default=["tests"], metavar="NAME")
    parser.add_argument("-k", dest="patterns", action="append", default=[], metavar="PATTERN")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for each test")
    parser.add_argument("-f", "--failfast", action="store_true", help="stop at the first failure")
    parser.add_argument("--summary", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)

    sys.path.insert(0, str(ROOT))
    restore_signals()
    figures = run(
        options.names,
        patterns=options.patterns,
        verbosity=2 if options.verbose else 1,
        failfast=options.failfast,
    )
    if options.summary:
        options.summary.write_text(f"{figures}\n")
    else:
        print(figures)
    if figures == Figures():
        print("no test was run", file=sys.stderr)
        return 1
    return 1 if figures.failed else 0


if __name__ == "__main__":
    sys.exit(main())
