"""Who holds which savepoint of a transaction that several connections share.

Connections begin and end in any order, savepoints only nest. While they nest, everything is exact.
A connection that only read may stay open around the others, as a session that looks at what the
code under test commits. What cannot be told apart any more, such as going back over what another
connection has committed since, is an error at the next statement: never a wrong answer.

Imported when first used, as it needs psycopg.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from psycopg import errors
from psycopg.pq import TransactionStatus

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import TypeVar

    from orchestrator.services.postgres_nested import Nested

    Result = TypeVar("Result")
    Steps = Generator[Any, Any, Result]

# Each savepoint in which something was written has a transaction id, and its lock until the end.
_COUNT_WRITERS: Final = """
    select count(*) from pg_locks
    where pid = pg_backend_pid() and locktype = 'transactionid' and mode = 'ExclusiveLock'
"""
# A commit checks deferred constraints; here it is a check that leaves them deferred. The code is
# one that no server uses.
_CHECK_DEFERRED: Final = """
    do $$ begin
        set constraints all immediate;
        raise exception using errcode = 'ORCH0', message = 'checked';
    exception when sqlstate 'ORCH0' then null;
    end $$
"""
_LOST: Final = (
    "isolation='transaction' cannot go on: a connection rolled back while another one, begun after "
    "it, had work in the same transaction, and that work is gone too. Let the later one end first, "
    "or use isolation='database'."
)
_ENDED: Final = "the test that this connection belonged to has ended"


@dataclass(eq=False)
class Level:
    """One connection's savepoint.

    Attributes:
        first: The savepoint that began it.
        target: The savepoint that its rollback goes back to; later than the first when another
            connection has committed since and this one had only read.
        writers: How many savepoints had written when it began; None when that is not known.
        wrote: Whether it had written before another connection began.
        done: Whether it was committed, and waits for those that began after it.
        mixed: Whether a connection that began before it has worked in it.
        holds_others: Whether another connection's commit went into it.
    """

    owner: Nested
    first: str
    target: str
    writers: int | None
    done: bool
    wrote: bool = False
    mixed: bool = False
    holds_others: bool = False


@dataclass(eq=False)
class Savepoints:
    """The savepoints of one shared transaction, the innermost last."""

    levels: list[Level] = field(default_factory=list)
    number: int = 0
    lost: bool = False
    ended: bool = False

    def check(self) -> None:
        """Raise unless statements still make sense."""
        if self.ended:
            raise errors.OperationalError(_ENDED)
        if self.lost:
            raise errors.NotSupportedError(_LOST)

    def enter(self, nested: Nested) -> Steps[None]:
        """Before each statement of a connection: begin, unless it has begun."""
        self.check()
        level = nested.level
        if level is None or level.done:
            yield from self._begin(nested)
        elif level not in self.levels:
            raise errors.InFailedSqlTransaction("the transaction has failed; roll it back first")
        else:
            for inner in self.levels[self.levels.index(level) + 1 :]:
                inner.mixed = True

    def commit(self, nested: Nested) -> Steps[None]:
        """End a connection's part; it is kept, as far as the shared transaction goes."""
        level, nested.level = nested.level, None
        if level is None or level.done or level not in self.levels:
            return
        if level is not self.levels[-1]:
            yield from self._recover(nested)
        if failed(nested):
            yield from self._undo(nested, level)
            return
        try:
            yield from nested.run(_CHECK_DEFERRED)
        except errors.Error:
            yield from self._undo(nested, level)
            raise
        level.done = True
        yield from self._settle(nested)

    def rollback(self, nested: Nested) -> Steps[None]:
        """Undo a connection's part."""
        level, nested.level = nested.level, None
        if level is not None and not level.done and level in self.levels:
            yield from self._undo(nested, level)

    def _begin(self, nested: Nested) -> Steps[None]:
        yield from self._settle(nested)
        yield from self._recover(nested)
        if self.levels and not self.levels[-1].wrote:
            outer = self.levels[-1]
            outer.wrote = yield from _has_written(nested, outer)
        name = yield from self._savepoint(nested)
        if nested.read_only:
            yield from nested.run("set transaction read only")
        writers = yield from _count_writers(nested)
        nested.level = Level(
            owner=nested, first=name, target=name, writers=writers, done=nested.autocommit
        )
        self.levels.append(nested.level)

    def _savepoint(self, nested: Nested) -> Steps[str]:
        self.number += 1
        name = f"orchestrator_{self.number}"
        yield from nested.run(f"savepoint {name}")
        return name

    def _settle(self, nested: Nested) -> Steps[None]:
        """Release what is committed and has nothing open in it any more."""
        while self.levels and self.levels[-1].done:
            level = self.levels.pop()
            if failed(nested):  # a statement in autocommit did
                yield from nested.run(f"rollback to savepoint {level.target}")
            yield from nested.run(f"release savepoint {level.first}")
            outer = self.levels[-1] if self.levels else None
            if outer is None or outer.owner is level.owner:
                continue
            if outer.wrote:
                outer.holds_others = True
            else:
                outer.target = yield from self._savepoint(nested)
                outer.writers = yield from _count_writers(nested)

    def _recover(self, nested: Nested) -> Steps[None]:
        """Undo the innermost level when it has failed; its owner finds that out by itself."""
        if self.levels and failed(nested):
            yield from self._undo(nested, self.levels[-1])

    def _undo(self, nested: Nested, level: Level) -> Steps[None]:
        inner = self.levels[self.levels.index(level) + 1 :]
        lost = level.mixed or level.holds_others or any(i.owner is not level.owner for i in inner)
        try:
            yield from nested.run(f"rollback to savepoint {level.target}")
        except errors.InvalidSavepointSpecification:  # a savepoint of the user's took it along
            yield from nested.run(f"rollback to savepoint {level.first}")
            lost = True
        yield from nested.run(f"release savepoint {level.first}")
        del self.levels[self.levels.index(level) :]
        self.lost = self.lost or lost


def failed(nested: Nested) -> bool:
    """Whether a statement has failed, so that the server takes nothing but a rollback."""
    return nested.pgconn.transaction_status == TransactionStatus.INERROR


def _has_written(nested: Nested, level: Level) -> Steps[bool]:
    now = yield from _count_writers(nested)
    return now is None or level.writers is None or now > level.writers


def _count_writers(nested: Nested) -> Steps[int | None]:
    if nested._pipeline:  # noqa: SLF001 - results of a pipeline come later, so it is not known
        return None
    result = yield from nested.run(_COUNT_WRITERS)
    return int(result.get_value(0, 0))
