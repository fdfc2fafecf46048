"""One run of the command, from options to exit status."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from orchestrator.runner import parent
from orchestrator.runner.interrupts import Interrupts
from orchestrator.runner.patience import Patience
from orchestrator.runner.reports.text import Text
from orchestrator.runner.run import FAILED

if TYPE_CHECKING:
    from orchestrator.runner.arguments import Options


def run_tests(options: Options, *, patience: Patience | None = None) -> int:
    """Run tests and report them.

    Returns:
        0 when everything passed, 1 for failures, crashes and tests that did not run, 3 when the
        tests could not be collected, 5 when there were none, 130 after an interrupt.
    """
    text = Text(sys.stderr, stdout=sys.stdout, verbosity=options.verbosity)
    with Interrupts() as interrupts:  # one Ctrl-C too many must not cost the reports
        run = parent.run(options, text, interrupts=interrupts, patience=patience or Patience())
        text.summary(run, durations=options.durations)
        if options.junit is not None:
            from orchestrator.runner.reports import junit  # most runs need no XML

            try:
                junit.write(run, options.junit)
            except OSError as error:
                text.note(f"--junit {options.junit} could not be written: {error.strerror}")
                return run.status or FAILED
    return run.status
