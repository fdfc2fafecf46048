"""psycopg connections that do one thing otherwise; imported when first used."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import IsolationLevel, errors

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Generator

    Steps = Generator[Any, Any, Any]

PATIENCE: Final = 5.0  # seconds
CONNECT: Final = 10  # seconds
_COMMITTED: Final = (None, IsolationLevel.READ_UNCOMMITTED, IsolationLevel.READ_COMMITTED)
_NOT_SHARED: Final = (
    "isolation='transaction' runs a test in one READ COMMITTED transaction; for {} use "
    "isolation='database' or 'schema'"
)


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
                    self._look_around(self.on_silence)
                    since = time.monotonic()
                step = gen.send(ready)
        except StopIteration as end:
            return end.value

    def _look_around(self, on_silence: Callable[[], None]) -> None:
        try:
            on_silence()
        except BaseException:
            self.end()  # nobody could read what it may say one day
            raise

    def end(self) -> None:
        """Close it for good."""
        psycopg.Connection.close(self)


class SharedConnection(PatientConnection):
    """One server session that several connections of SQLAlchemy hold at the same time.

    It is in a transaction that none of them ends: what each takes for its own is a savepoint, which
    `SharedTransaction` makes, keeps and undoes. So what SQLAlchemy asks of it then has been done.

    Attributes:
        holders: One for each connection that holds it.
        listeners: What notices are handed to.
        expected: Whether SQLAlchemy asks now; anybody else would be told a lie.
    """

    holders: deque[None]
    listeners: tuple[Callable[[Any], None], ...] = ()
    expected: Callable[[], bool] = staticmethod(lambda: False)

    def commit(self) -> None:
        """Nothing: the savepoint was released."""
        self._check_expected("commit")

    def rollback(self) -> None:
        """Nothing: the savepoint was gone back to."""
        self._check_expected("rollback")

    def close(self) -> None:
        """One less holds it."""
        self.holders.pop()

    def add_notice_handler(self, callback: Callable[[Any], None]) -> None:
        """Add it once, though each connection of SQLAlchemy does."""
        if callback not in self.listeners:
            self.listeners = (*self.listeners, callback)
            super().add_notice_handler(callback)

    @property
    def autocommit(self) -> bool:
        """To psycopg it is; what a statement is a part of is said by savepoints."""
        return True

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        del value

    @property
    def isolation_level(self) -> IsolationLevel | None:
        """The server's default."""
        return None

    @isolation_level.setter
    def isolation_level(self, value: IsolationLevel | None) -> None:
        if value not in _COMMITTED:
            raise errors.NotSupportedError(_NOT_SHARED.format(value.name if value else value))

    @property
    def read_only(self) -> bool | None:
        """The server's default."""
        return None

    @read_only.setter
    def read_only(self, value: bool | None) -> None:
        if value:
            raise errors.NotSupportedError(_NOT_SHARED.format("READ ONLY"))

    @property
    def deferrable(self) -> bool | None:
        """The server's default."""
        return None

    @deferrable.setter
    def deferrable(self, value: bool | None) -> None:
        if value:
            raise errors.NotSupportedError(_NOT_SHARED.format("DEFERRABLE"))

    def _check_expected(self, what: str) -> None:
        if not self.expected():
            raise errors.NotSupportedError(
                f"isolation='transaction': {what}() of psycopg would not do so, as all connections "
                "of the test share one session; use the engine's begin(), or isolation='database'"
            )
