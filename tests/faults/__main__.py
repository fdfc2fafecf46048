"""``ci/faults``: every case as often as it takes to catch a race, and a table of what came of it.

Beside each case stands what removing the same objects costs with one ``docker rm -f`` and one
``docker network rm``, measured just before it on the same daemon.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import unittest
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.faults.raw import RawRemoval

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
_HEAD: Final = ("case", "times", "leaks", "failed", "median s", "worst s", "raw s", "in words")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of one case.

    Attributes:
        times: How often it ran.
        leaks: How often something was left.
        failed: How often something else went wrong.
        median: Seconds until nothing was left, in the middle.
        worst: The longest of them.
        raw: Seconds for the raw removal of two containers (ten where the case has ten) and a
            network, just before.
    """

    case: str
    words: str
    times: int
    leaks: int
    failed: int
    median: float | None
    worst: float | None
    raw: float


def main() -> int:
    """Run the cases and print the table; 1 when there was a leak or another failure."""
    arguments = _parser().parse_args()
    # Read when the cases are loaded.
    os.environ.update(FAULTS_SECONDS=str(arguments.seconds), FAULTS_THOROUGH="1")
    cases = [
        case
        for case in _cases()
        if not arguments.only or any(_meant(case, word) for word in arguments.only)
    ]
    width = max((len(_name(case)) for case in cases), default=0)
    print(_line(_HEAD, width=width), flush=True)
    rows = []
    with RawRemoval() as raw:
        for case in cases:
            rows.append(_run(case, repeat=arguments.repeat, raw=raw))
            print(_line(_cells(rows[-1]), width=width), flush=True)
    kills = sum(row.times for row in rows)
    bad = sum(row.leaks + row.failed for row in rows)
    print(f"\n{kills} runs of {len(rows)} cases, {sum(row.leaks for row in rows)} leaks")
    if arguments.json:
        report = {"cases": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ci/faults", description=__doc__)
    parser.add_argument(
        "only", nargs="*", metavar="WORD", help="only cases with these words, such as R6 or chaos"
    )
    parser.add_argument(
        "--repeat", type=int, metavar="N", help="run each case N times, not as often as it asks for"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=60,
        metavar="S",
        help="how long the crowd of R15 is kept up",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


def _cases() -> Iterator[unittest.TestCase]:
    from tests.faults.case import FaultCase  # after the environment it reads is set

    loader = unittest.TestLoader()
    pending: list[Any] = [
        loader.discover("tests/faults", top_level_dir=str(ROOT)),
        loader.loadTestsFromNames(["tests.faults.chaos", "tests.faults.crowd"]),
    ]
    while pending:
        item = pending.pop(0)
        if isinstance(item, unittest.TestSuite):
            pending[:0] = list(item)
        elif isinstance(item, FaultCase):
            yield item
        elif type(item).__name__ == "_FailedTest":
            raise SystemExit(f"cannot load {item.id()}: {vars(item)['_exception']}")


def _name(case: unittest.TestCase) -> str:
    return case.id().rpartition(".")[2].removeprefix("test_")


def _meant(case: unittest.TestCase, word: str) -> bool:
    """Whether a word chooses a case: part of its name, or a whole word such as R6."""
    words = (case.shortDescription() or "").lower().split()
    return word.lower() in _name(case) or word.lower() in words


def _run(case: unittest.TestCase, *, repeat: int | None, raw: RawRemoval) -> Row:
    method = getattr(case, case._testMethodName)
    times = repeat if repeat is not None else int(getattr(method, "repeated", 1))
    beside = raw.seconds(getattr(method, "containers", 2))
    tests = [type(case)(method.__name__) for _ in range(times)]
    result = unittest.TestResult()
    unittest.TestSuite(tests).run(result)
    seconds = [value for test in tests for value in vars(test).get("seconds", ())]
    problems = [text for _test, text in (*result.errors, *result.failures)]
    for text in problems:
        print(f"\n{_name(case)}:\n{text}", file=sys.stderr)
    leaks = sum("left behind" in text or "appeared after all" in text for text in problems)
    return Row(
        case=_name(case),
        words=("skipped: " + result.skipped[0][1])
        if result.skipped
        else case.shortDescription() or "",
        times=times - len(result.skipped),
        leaks=leaks,
        failed=len(problems) - leaks,
        median=statistics.median(seconds) if seconds else None,
        worst=max(seconds, default=None),
        raw=beside,
    )


def _cells(row: Row) -> Sequence[str]:
    times = (row.median, row.worst, row.raw)
    return (
        row.case,
        str(row.times),
        str(row.leaks),
        str(row.failed),
        *("-" if seconds is None else f"{seconds:.2f}" for seconds in times),
        row.words,
    )


def _line(cells: Sequence[str], *, width: int) -> str:
    widths = (width, *(len(title) for title in _HEAD[1:]))
    return "  ".join(cell.ljust(size) for cell, size in zip(cells, widths, strict=True)).rstrip()


if __name__ == "__main__":
    sys.exit(main())
