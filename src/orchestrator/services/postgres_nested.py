"""psycopg connections that share one server session, and one transaction of it.

What such a connection takes for its own transaction is a savepoint of the shared one. Nothing is
ever committed. Imported when first used, as it needs psycopg.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import errors

if TYPE_CHECKING:
    from collections.abc import Generator

    from orchestrator.services.postgres_savepoints import Level, Savepoints

    Steps = Generator[Any, Any, Any]

# What psycopg's synchronous and asyncio connections have in common, and what is replaced here. It
# is not documented, so the contract tests hold psycopg to it.
REPLACED: Final = ("_start_query", "_commit_gen", "_rollback_gen", "_check_intrans_gen")
_LEVELS: Final = (
    None,
    psycopg.IsolationLevel.READ_UNCOMMITTED,
    psycopg.IsolationLevel.READ_COMMITTED,
)


class Nested(psycopg.BaseConnection[Any]):
    """What both kinds of connection do otherwise than psycopg's own."""

    savepoints: Savepoints
    level: Level | None = None
    left: bool = False

    @property
    def closed(self) -> bool:
        """Whether it was closed; the session it shares goes on."""
        return self.left or super().closed

    def run(self, command: str) -> Steps:
        """Execute one statement of our own."""
        return self._exec_command(command.encode())

    def _start_query(self) -> Steps:
        self._check_connection_ok()
        if self._num_transactions and self.level is None:
            self.savepoints.check()  # psycopg's own `transaction()` has a savepoint already
        else:
            yield from self.savepoints.enter(self)

    def _commit_gen(self) -> Steps:
        self._check_no_block("commit")
        yield from self.savepoints.commit(self)

    def _rollback_gen(self) -> Steps:
        self._check_no_block("rollback")
        if self._pipeline:
            yield from self._pipeline._sync_gen()  # noqa: SLF001 - as psycopg does
        yield from self.savepoints.rollback(self)

    def _check_intrans_gen(self, attribute: str) -> Steps:
        yield from ()
        if self.level is not None and not self.level.done:
            raise errors.ProgrammingError(f"can't change {attribute!r} now: in a transaction")

    def _set_isolation_level_gen(self, value: Any) -> Steps:
        if value not in _LEVELS:
            raise errors.NotSupportedError(
                "isolation='transaction' runs a test in one READ COMMITTED transaction; for "
                f"{psycopg.IsolationLevel(value).name} use isolation='database' or 'schema'"
            )
        yield from super()._set_isolation_level_gen(value)

    def _check_no_block(self, action: str) -> None:
        if self._num_transactions:
            raise errors.ProgrammingError(
                f"{action}() is forbidden within a transaction() block, which ends by itself"
            )

    def _check_connection_ok(self) -> None:
        if self.left:
            raise errors.OperationalError("the connection is closed")
        super()._check_connection_ok()


class NestedConnection(Nested, psycopg.Connection[Any]):
    """A connection for synchronous code."""

    def close(self) -> None:
        """Undo what was not committed, and leave the shared session."""
        if not self.closed and not self.savepoints.ended:
            self.rollback()
        self.left = True


class NestedAsyncConnection(Nested, psycopg.AsyncConnection[Any]):
    """A connection for asyncio."""

    async def close(self) -> None:
        """Undo what was not committed, and leave the shared session."""
        if not self.closed and not self.savepoints.ended:
            await self.rollback()
        self.left = True
