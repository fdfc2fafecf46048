"""Measure, print a table for each subject, and write all samples as JSON."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tests.benchmarks import report
from tests.benchmarks.figures import Effort
from tests.benchmarks.machine import cleaned, has_testcontainers
from tests.benchmarks.subjects import SUBJECTS

ROUNDS = 3
TESTS = 200
QUICK = Effort(rounds=1, tests=50)


def main() -> int:
    """Measure what was asked for."""
    options = arguments()
    if options.list:
        for subject in SUBJECTS:
            print(f"{subject.name:<10} {subject.title}")
        return 0
    effort = QUICK if options.quick else Effort(rounds=options.rounds, tests=options.tests)
    chosen = [s for s in SUBJECTS if not options.subjects or s.name in options.subjects]
    if not has_testcontainers():
        print("testcontainers-python is not installed; ci/bench installs it", file=sys.stderr)
    began = time.monotonic()
    measured = {}
    with cleaned():
        for subject in chosen:
            measured[subject] = subject.measure(effort)
            print(report.table(subject, measured[subject]), end="\n\n", flush=True)
    where = ", ".join(f"{name} {value}" for name, value in report.machine().items())
    print(f"{where}; {effort.rounds} rounds in {time.monotonic() - began:.0f} s")
    if options.json:
        text = json.dumps(report.document(measured, effort=effort), indent=2, ensure_ascii=False)
        options.json.write_text(text + "\n")
    missed = report.missed(measured)
    for expectation in missed:
        print(f"missed: {expectation}")
    return 1 if missed and options.check else 0


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="ci/bench", description=__doc__)
    names = [subject.name for subject in SUBJECTS]
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=", ".join(names))
    parser.add_argument("--list", action="store_true", help="say what can be measured")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"{ROUNDS} by default")
    parser.add_argument("--tests", type=int, default=TESTS, help=f"per class, {TESTS} by default")
    parser.add_argument("--quick", action="store_true", help="one round: does it work at all?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    parser.add_argument("--check", action="store_true", help="exit with 1 when one is missed")
    options = parser.parse_args()
    if unknown := set(options.subjects) - set(names):
        parser.error(f"no subject {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if options.rounds < 1 or options.tests < 1:
        parser.error("--rounds and --tests begin at 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
