"""The gate every create passes: it closes when clean-up begins.

Without it, threads that still create while the rest is being removed leave things behind.
No locks: a signal handler closes the gate, and the thread it interrupted might hold them. What it
does is safe under the GIL and without it, because a creator enters first and looks second, and
the closer closes first and looks second: one of them always sees the other.
"""

from __future__ import annotations

import threading
import time
from typing import Final

_POLL: Final = 0.002


class Gate:
    """Counts creates in flight, and refuses new ones once closed."""

    def __init__(self) -> None:
        self._closed = False
        self._inside: dict[object, int] = {}

    @property
    def closed(self) -> bool:
        """Whether clean-up has begun."""
        return self._closed

    def enter(self) -> object | None:
        """Let one create in: its ticket, or None when the gate is closed."""
        ticket = object()
        self._inside[ticket] = threading.get_ident()
        if self._closed:
            self.leave(ticket)
            return None
        return ticket

    def leave(self, ticket: object) -> None:
        """The create is over."""
        self._inside.pop(ticket, None)

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True

    def wait_until_empty(self, *, seconds: float) -> bool:
        """Wait for the creates of other threads; those of this one cannot go on meanwhile.

        Returns:
            False when some create was still in flight, in any thread, at the end.
        """
        me = threading.get_ident()
        deadline = time.monotonic() + seconds
        while any(thread != me for thread in tuple(self._inside.values())):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL)
        return not self._inside
