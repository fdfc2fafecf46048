"""How long the parent waits for a worker before it takes the next, harder step."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Seconds.

    Attributes:
        finish: For the running test, after the first Ctrl-C, or when the parent is gone; then it is
            interrupted.
        teardown: For tearDownClass and clean-ups after an interrupt; then the worker is killed.
        leave: For the exit of a worker that has nothing more to do; then it is killed.
        dump: For the stacks of a hung worker to be written.
        collect: For collecting the tests, when ``--timeout`` gives less; see `collecting`.
    """

    finish: float = 10.0
    teardown: float = 20.0
    leave: float = 20.0
    dump: float = 0.3
    collect: float = 10.0

    def collecting(self, timeout: float | None) -> float | None:
        """How long a worker may collect: a limit for quick classes is none for slow imports."""
        return None if timeout is None else max(timeout, self.collect)

    def urgent(self) -> Patience:
        """After a SIGTERM: ``docker stop`` and CI systems kill a few seconds later."""
        return replace(self, finish=min(self.finish, 0.5), teardown=min(self.teardown, 1.5))
