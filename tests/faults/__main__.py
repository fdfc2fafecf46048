"""``ci/faults``: every case as often as it takes to catch a race, and a table."""

import argparse
import os
import statistics
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
_ROW: Final = "{:45} {:>5} {:>5} {:>6} {:>8} {:>7}  {}"


def main() -> int:
    """Run the cases and print the table; 1 when there was a leak or another failure."""
    parser = argparse.ArgumentParser(prog="ci/faults", description=__doc__)
    parser.add_argument(
        "only", nargs="*", metavar="WORD", help="only cases with these words, such as R6 or chaos"
    )
    parser.add_argument(
        "--repeat", type=int, metavar="N", help="run each case N times, not as often as it asks for"
    )
    arguments = parser.parse_args()
    # Read when the cases are loaded.
    os.environ["FAULTS_THOROUGH"] = "1"
    print(_ROW.format("case", "times", "leaks", "failed", "median s", "worst s", "in words"))
    kills = bad = 0
    for case in _cases():
        if not arguments.only or any(_is_meant(case, word) for word in arguments.only):
            method = getattr(case, case._testMethodName)
            times = arguments.repeat or int(getattr(method, "repeated", 1))
            kills += times
            bad += _run(case, times=times)
    print(f"\n{kills} runs, {bad} of them with a leak or another failure")
    return 1 if bad else 0


def _cases() -> Iterator[unittest.TestCase]:
    from tests.faults.case import FaultCase  # after the environment it reads is set

    loader = unittest.TestLoader()
    pending: list[Any] = [
        loader.discover("tests/faults", top_level_dir=str(ROOT)),
        loader.loadTestsFromNames(["tests.faults.chaos"]),
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


def _is_meant(case: unittest.TestCase, word: str) -> bool:
    """Whether a word chooses a case: part of its name, or a whole word such as R6."""
    words = (case.shortDescription() or "").lower().split()
    return word.lower() in _name(case) or word.lower() in words


def _run(case: unittest.TestCase, *, times: int) -> int:
    """Run a case so often and print its row; how often something went wrong."""
    tests = [type(case)(case._testMethodName) for _ in range(times)]
    result = unittest.TestResult()
    unittest.TestSuite(tests).run(result)
    seconds = [value for test in tests for value in vars(test).get("seconds", ())]
    problems = [text for _test, text in (*result.errors, *result.failures)]
    for text in problems:
        print(f"\n{_name(case)}:\n{text}", file=sys.stderr)
    leaks = sum("left behind" in text or "appeared after all" in text for text in problems)
    words = f"skipped: {result.skipped[0][1]}" if result.skipped else case.shortDescription()
    median, worst = (
        (f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}") if seconds else ("-", "-")
    )
    failed = len(problems) - leaks
    print(_ROW.format(_name(case), times, leaks, failed, median, worst, words), flush=True)
    return len(problems)


if __name__ == "__main__":
    sys.exit(main())
