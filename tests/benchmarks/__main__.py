"""Measure, print a table for each subject, and write all samples as JSON."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from tests.benchmarks import isolation, start, suites
from tests.benchmarks.machine import THEIR_PYTHON, cleaned, run

SUBJECTS = (
    start.START,
    start.IDLE,
    start.SECURED_KAFKA,
    isolation.SUBJECT,
    suites.IMPORT,
    suites.SUPPLY,
    suites.RUNNER,
    suites.NEXT,
    suites.WARM,
    suites.PARALLEL,
)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="ci/bench", description=__doc__)
    names = [subject.name for subject in SUBJECTS]
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=3, help="how often variants take turns: 3")
    parser.add_argument("--quick", dest="rounds", action="store_const", const=1, help="one round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    options = parser.parse_args()
    if unknown := set(options.subjects) - set(names):
        parser.error(f"no subject {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if options.rounds < 1:
        parser.error("--rounds begins at 1")
    if not THEIR_PYTHON.exists():
        print("testcontainers-python is not installed; ci/bench installs it", file=sys.stderr)
    os.environ["ORCHESTRATOR_SNAPSHOTS"] = "2g"  # as users have it; our tests do without
    began, samples = time.monotonic(), {}
    with cleaned():
        for subject in SUBJECTS:
            if not options.subjects or subject.name in options.subjects:
                rows = subject.measure(options.rounds)
                samples[subject.name] = {row.what: row.samples for row in rows}
                print(subject.table(rows), end="\n\n", flush=True)
    machine = {
        "commit": run("git", "rev-parse", "--short", "HEAD"),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "docker": run("docker", "version", "--format", "{{.Server.Version}}"),
    }
    where = ", ".join(f"{name} {value}" for name, value in machine.items())
    print(f"{where}; {options.rounds} rounds in {time.monotonic() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "samples": samples}, indent=2))


if __name__ == "__main__":
    main()
