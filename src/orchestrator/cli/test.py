"""Run unittest tests in parallel, class by class; a crash loses nothing.

Names, paths and options are those of ``python -m unittest``; without a name, tests are discovered.
The exit status is 0 when everything passed, 1 for failures, crashes and tests that did not run,
2 for a wrong command line, 3 when the tests could not be collected, 5 when there were none, and
130 after an interrupt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.runner import arguments as runner_arguments

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    runner_arguments.configure(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the tests."""
    options = runner_arguments.options(arguments)
    from orchestrator.runner.command import run_tests

    return run_tests(options)
