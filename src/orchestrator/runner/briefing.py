"""What every worker of a run is given: the same arguments and the same environment."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

from orchestrator.runner.messages import Setup

if TYPE_CHECKING:
    from orchestrator.runner.arguments import Options
    from orchestrator.runner.patience import Patience


def setup(options: Options, *, patience: Patience) -> Setup:
    """What to collect, and how to run it."""
    return Setup(
        names=options.names,
        start=options.start,
        pattern=options.pattern,
        top=options.top,
        keep=options.keep,
        failfast=options.failfast,
        buffer=options.buffer,
        tb_locals=options.tb_locals,
        report=False,
        finish=patience.finish,
        teardown=patience.teardown,
    )


def environ(options: Options, *, run_id: str) -> dict[str, str]:
    """The workers' environment.

    They share the run's label, and the hash seed: tests generated from a set are collected in
    the same order everywhere.
    """
    hash_seed = str(random.randrange(1, 2**32))  # noqa: S311 - any will do
    given = {"PYTHONHASHSEED": hash_seed, **os.environ}
    if options.logs is not None:
        given["ORCHESTRATOR_LOGS"] = str(options.logs.absolute())
    if options.timeline is not None:
        given["ORCHESTRATOR_TIMELINE"] = str(options.timeline.absolute())
    return given | {"ORCHESTRATOR_RUN": run_id}
