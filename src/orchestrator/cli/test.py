"""Run unittest tests in parallel, class by class; a crash loses nothing.

Names, paths and options are those of ``python -m unittest``; without a name, tests are discovered.
The exit status is 0 when everything passed, 1 for failures, crashes and tests that did not run,
2 for a wrong command line, 3 when the tests could not be collected, 5 when there were none, and
130 after an interrupt. With --retries, a test that fails first and passes then is FLAKY: it is
counted and reported as that, and leaves the status 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.runner import options

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    options.configure(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the tests."""
    chosen = options.parsed(arguments)
    from orchestrator.runner.run import run_tests  # a wrong command line is told at once

    return run_tests(chosen)
