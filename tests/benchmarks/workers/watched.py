"""An independent observer of each service, which knows when it was really ready.

An observer is a process of its own. It begins to ask before the container exists.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.benchmarks.machine import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MODULE = "tests.benchmarks.workers.observer"
_PATIENCE = 60.0


@dataclass
class Seen:
    """When services were ready, and when the library noticed.

    Attributes:
        observers: Service to the process that watches it.
        noticed: Service to the time.monotonic() at which the library took it for ready.
    """

    observers: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    noticed: dict[str, float] = field(default_factory=dict)

    def observe(self, service: str, port: int) -> None:
        """Begin to ask a server for its first answer; return when somebody asks."""
        self.stop(service)  # the port before this one was not to be had
        observer = subprocess.Popen(
            [sys.executable, "-m", _MODULE, service, str(port)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.observers[service] = observer
        assert observer.stdout is not None
        observer.stdout.readline()  # it has begun

    def note(self, service: str) -> None:
        """The library has noticed just now."""
        self.noticed.setdefault(service, time.monotonic())

    def idle(self) -> Mapping[str, float]:
        """Service to the seconds from its first answer until the library noticed."""
        idle = {}
        for service, observer in self.observers.items():
            answer, _ = observer.communicate(timeout=_PATIENCE)
            idle[service] = self.noticed[service] - float(answer)
        return idle

    def stop(self, service: str) -> None:
        """End an observer."""
        if observer := self.observers.pop(service, None):
            observer.kill()
            observer.communicate()


@contextlib.contextmanager
def observers() -> Iterator[Seen]:
    """Observers that end with the block."""
    seen = Seen()
    try:
        yield seen
    finally:
        for service in list(seen.observers):
            seen.stop(service)
