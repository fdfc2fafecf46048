"""A psycopg connection that no frozen server keeps waiting; imported when first used."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    Steps = Generator[Any, Any, Any]

PATIENCE: Final = 5.0  # seconds


class PatientConnection(psycopg.Connection[Any]):
    """A connection that looks around when its server is silent for long.

    A frozen server keeps its connections open, and libpq has no timeout for an answer: one would
    wait for ever. A slow statement is another matter: then the server answers others.

    Attributes:
        on_silence: Called whenever the server has been silent for so long; it raises what ends the
            waiting.
    """

    on_silence: Callable[[], None] | None = None

    def wait(self, gen: Steps, *arguments: Any, **options: Any) -> Any:
        """Wait as psycopg does, and look at the clock whenever it does."""
        return super().wait(self._watched(gen), *arguments, **options)

    def _watched(self, gen: Steps) -> Steps:
        since = time.monotonic()
        try:
            step = next(gen)
            while True:
                ready = yield step
                if ready:
                    since = time.monotonic()
                elif self.on_silence and time.monotonic() - since > PATIENCE:
                    try:
                        self.on_silence()
                    except BaseException:
                        self.close()  # nobody could read what it may say one day
                        raise
                    since = time.monotonic()
                step = gen.send(ready)
        except StopIteration as end:
            return end.value
