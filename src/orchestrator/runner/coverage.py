"""coverage.py, where the command runs under it: the workers are measured, too."""

from __future__ import annotations

import copy
import sys
import tempfile
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CONFIGURATION: Final = "COVERAGE_PROCESS_CONFIG"  # coverage 7.10 and later start by it
_ASKED_FOR: Final = (_CONFIGURATION, "COVERAGE_PROCESS_START")


@contextmanager
def measured_workers(environ: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """Yield the environment in which workers are measured as this process is.

    What they, and the processes that their tests start, have found is part of this process's data
    when the block ends. Without coverage, or where it measures subprocesses as it is configured
    (``patch = subprocess``), the environment is the same.
    """
    coverage: Any = sys.modules.get("coverage")
    current: Any = coverage.Coverage.current() if coverage else None
    configuration: Any = getattr(current, "config", None)
    if not hasattr(configuration, "serialize") or any(name in environ for name in _ASKED_FOR):
        yield environ
        return
    with tempfile.TemporaryDirectory(prefix="orchestrator-") as folder:
        configuration = copy.copy(configuration)
        configuration.parallel, configuration.data_file = True, str(Path(folder) / "workers")
        yield {**environ, _CONFIGURATION: configuration.serialize()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that nothing was measured: not in this process
            data = current.get_data()
        for path in Path(folder).iterdir():
            found = coverage.CoverageData(str(path))
            with suppress(coverage.CoverageException):  # of a worker that was killed
                found.read()
                data.update(found)
