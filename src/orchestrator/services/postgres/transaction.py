"""isolation="transaction": what a test does through SQLAlchemy is one transaction, rolled back.

SQLAlchemy's recipe for test suites joins one Session to one Connection, and turns the Session's
transactions into savepoints (``join_transaction_mode="create_savepoint"``). An application has an
Engine, which makes many connections; so here each connection of the test's engine shares one server
session, and what each takes for its transaction, or for a ``begin_nested()``, is a savepoint.

Connections begin and end in any order, savepoints only nest. While they nest, everything is exact.
A connection that only read may stay open around the others, as a session that looks at what the
code under test commits. What cannot be told apart any more, such as going back over what another
connection has committed since, is an error at the next statement: never a wrong answer.

Imported when first used, as it needs SQLAlchemy and psycopg.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy
from psycopg import Error, OperationalError, errors
from psycopg.pq import TransactionStatus

from orchestrator.errors import ServiceError
from orchestrator.services.postgres.admin import PatientConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.services.postgres.admin import Admin

_BEGIN: Final = "begin; savepoint orchestrator"
_END: Final = "rollback to savepoint orchestrator; rollback"
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
    "isolation='transaction' cannot go on: a connection went back while another one, begun after "
    "it, had work in the same transaction, and that work is gone too. Let the later one end first, "
    "or use isolation='database'."
)
_ENDED: Final = "the test that this connection belonged to has ended"
_FAILED: Final = "the transaction has failed; roll it back first"
_ISOLATION_LEVELS: Final = ("AUTOCOMMIT", "READ COMMITTED", "READ UNCOMMITTED")


class SharedConnection(PatientConnection):
    """The server session that all connections of a test's engine hold at the same time."""

    handlers: tuple[Callable[[Any], None], ...] = ()

    def commit(self) -> None:
        """Refuse to: SQLAlchemy does without, and to anybody else it would mean too much."""
        _refuse("commit() and rollback() of psycopg use the engine's begin(), or")

    rollback = commit

    def add_notice_handler(self, callback: Callable[[Any], None]) -> None:
        """Add it once, though SQLAlchemy does so for each of its connections."""
        if callback not in self.handlers:
            self.handlers = (*self.handlers, callback)
            super().add_notice_handler(callback)


@dataclass(eq=False)
class _Level:
    """A savepoint: what a connection takes for its transaction, or for a nested one.

    Attributes:
        first: The savepoint that began it.
        target: The savepoint that its rollback goes back to; later than the first when another
            connection has committed since and this one had only read.
        writers: How many savepoints had written at the target.
        wrote: Whether it had written when another one began.
        shared: Whether work of another connection would be undone with it.
        done: Whether it was committed, and waits for those that began after it.
    """

    owner: weakref.ref[sqlalchemy.Connection]
    first: str
    target: str
    writers: int
    wrote: bool = False
    shared: bool = False
    done: bool = False


class SharedTransaction:
    """The transaction of one test, begun when first used.

    Args:
        alias: The service's, for errors.
        admin: Has sessions, and ends them where nothing else can.
    """

    def __init__(self, *, alias: str, admin: Admin) -> None:
        self._alias = alias
        self._admin = admin
        self._session: SharedConnection | None = None
        self._holders: deque[None] = deque()  # one for each connection of SQLAlchemy
        self._levels: list[_Level] = []  # the innermost last, which is never done
        self._undone: weakref.WeakSet[sqlalchemy.Connection] = weakref.WeakSet()
        self._number = 0
        self._lost = False
        self._ended = False
        self._lock = threading.RLock()  # one session executes one statement after the other

    def engine(self, url: sqlalchemy.URL) -> sqlalchemy.Engine:
        """An engine all of whose connections work in the transaction."""
        made = sqlalchemy.create_engine(
            url, creator=self._connect, poolclass=sqlalchemy.NullPool, pool_reset_on_return=None
        )
        dialect = made.dialect
        vars(dialect).update(
            do_close=self._disconnect,
            do_commit=_nothing,  # events tell of which connection
            do_rollback=_nothing,
            do_savepoint=self._begin_nested,
            do_rollback_to_savepoint=self._rollback,
            do_release_savepoint=self._release_nested,
            do_begin_twophase=lambda *_: _refuse("two-phase transactions"),
            set_isolation_level=_check_isolation_level,
            set_readonly=lambda _, value: _refuse("READ ONLY") if value else None,
            set_deferrable=lambda _, value: _refuse("DEFERRABLE") if value else None,
        )
        made.connect().close()  # SQLAlchemy looks around at the first one
        sqlalchemy.event.listen(made, "commit", self._commit)
        sqlalchemy.event.listen(made, "rollback", self._rollback)
        for event in ("do_execute", "do_executemany", "do_execute_no_params"):
            sqlalchemy.event.listen(made, event, self._executing(getattr(dialect, event)))
        return made

    def cut_off(self) -> None:
        """Let its connections execute nothing more; what they had begun is rolled back anyway."""
        self._ended = True

    def close(self) -> None:
        """Roll everything back, and leave the session as if nothing had been.

        Raises:
            ServiceError: The test ended it itself, with a COMMIT or ROLLBACK in SQL.
        """
        self.cut_off()
        session = self._session
        if session is None or session.closed:
            return
        if session.info.transaction_status == TransactionStatus.ACTIVE:  # a thread is still at it
            self._admin.run("select pg_terminate_backend(%s)", [session.info.backend_pid])
            session.close()
            return
        try:
            session.execute(_END)
        except OperationalError:
            session.close()  # the server is gone, and the transaction with it
        except Error as error:
            session.close()
            raise ServiceError(
                f"{self._alias}: the test ended the transaction that isolates it, with COMMIT or "
                "ROLLBACK in SQL or with PREPARE TRANSACTION, so what it wrote may be in the "
                "class's database. Use the connection's commit() and rollback(), or "
                "isolation='database'.",
                service=self._alias,
            ) from error
        else:
            if self._holders:
                session.close()  # who holds it yet shall not reach into the next test
            else:
                session.execute("discard all")
                self._admin.spare.append(session)

    # What SQLAlchemy asks for, and tells

    def _connect(self) -> SharedConnection:
        with self._lock:
            if self._ended:
                raise OperationalError(_ENDED)
            session = self._session
            while session is None or not _is_alive(session):
                spare = self._admin.spare
                session = spare.pop() if spare else self._admin.connect(SharedConnection)
            if session is not self._session:
                session.execute(_BEGIN)
                self._session = session
                self._levels.clear()
                self._holders.clear()
            self._holders.append(None)
            return session

    def _disconnect(self, session: SharedConnection) -> None:
        if session is self._session:
            self._holders.pop()

    def _commit(self, connection: sqlalchemy.Connection) -> None:
        """Keep a connection's part, as far as the shared transaction goes."""
        if self._ended:
            return
        with self._lock:
            self._undone.discard(connection)
            own = self._levels_of(connection)
            if not own:
                return
            if own[-1] is not self._levels[-1]:
                self._recover()
            if self._failed():
                self._undo(own[0])
                return
            try:
                connection.exec_driver_sql(_CHECK_DEFERRED)  # so that its error is SQLAlchemy's
            except BaseException:
                self._undo(own[0])
                raise
            self._release(*own)

    def _rollback(self, connection: sqlalchemy.Connection, nested: str = "") -> None:
        """Undo a connection's part."""
        if self._ended:
            return
        with self._lock, contextlib.suppress(OperationalError):
            own = self._levels_of(connection)
            if own:
                self._undo(own[-1 if nested else 0])
            elif not nested:
                self._undone.discard(connection)

    def _begin_nested(self, connection: sqlalchemy.Connection, _name: str) -> None:
        connection.exec_driver_sql("select")  # what is wrong is told in SQLAlchemy's words
        with self._lock:
            self._open(connection)

    def _release_nested(self, connection: sqlalchemy.Connection, _name: str) -> None:
        connection.exec_driver_sql("select")
        with self._lock:
            self._release(self._levels_of(connection)[-1])

    def _executing(self, execute: Callable[..., None]) -> Callable[..., bool]:
        def handle(cursor: Any, statement: Any, *more: Any) -> bool:
            with self._lock, self._part_of(more[-1].root_connection):
                execute(cursor, statement, *more)
            return True

        return handle

    @contextlib.contextmanager
    def _part_of(self, connection: sqlalchemy.Connection) -> Iterator[None]:
        """Around a statement: it is a part of its connection's savepoint."""
        if self._ended:
            raise OperationalError(_ENDED)
        if self._lost:
            raise errors.NotSupportedError(_LOST)
        if connection in self._undone:
            raise errors.InFailedSqlTransaction(_FAILED)
        if not self._levels_of(connection):
            self._open(connection)
        level = self._levels_of(connection)[-1]
        if inner := self._levels[self._levels.index(level) + 1 :]:
            name, before = self._savepoint()
            yield
            [[after]] = self._run(f"{_COUNT_WRITERS}; release savepoint {name}")
            if after > before:
                level.wrote = True
                for other in inner:
                    other.shared = True
        elif connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            try:
                yield
            except BaseException:
                self._undo(level)
                raise
            self._release(level)
        else:
            yield

    # Savepoints

    def _levels_of(self, connection: sqlalchemy.Connection) -> list[_Level]:
        """A connection's open levels, the outermost first; none before its first statement."""
        return [it for it in self._levels if it.owner() is connection and not it.done]

    def _open(self, connection: sqlalchemy.Connection) -> None:
        self._recover()
        name, writers = self._savepoint()
        if self._levels:
            outer = self._levels[-1]
            outer.wrote = outer.wrote or writers > outer.writers
        self._levels.append(_Level(weakref.ref(connection), name, name, writers))

    def _release(self, *levels: _Level) -> None:
        """Take levels for done, and release all that have nothing open in them."""
        for level in levels:
            level.done = True
        while self._levels and self._levels[-1].done:
            level = self._levels.pop()
            self._run(f"release savepoint {level.first}")
            outer = self._levels[-1] if self._levels else None
            if outer is None:
                return
            if outer.owner() is level.owner():
                outer.shared = outer.shared or level.shared
            elif outer.wrote:
                outer.shared = True
            else:
                outer.target, outer.writers = self._savepoint()

    def _recover(self) -> None:
        """Undo the innermost level when it has failed, or its connection was left to its fate."""
        while self._levels:
            level = self._levels[-1]
            owner = level.owner()
            if owner is not None:
                if not self._failed():
                    return
                level = self._levels_of(owner)[0]
                self._undone.add(owner)
            self._undo(level)

    def _undo(self, level: _Level) -> None:
        gone = self._levels[self._levels.index(level) :]
        if any(it.shared or it.owner() is not level.owner() for it in gone):
            self._lost = True
        self._run(f"rollback to savepoint {level.target}; release savepoint {level.first}")
        del self._levels[-len(gone) :]
        self._release()

    def _savepoint(self) -> tuple[str, int]:
        """The name of a new savepoint, and how many had written before."""
        self._number += 1
        name = f"orchestrator_{self._number}"
        [[count]] = self._run(f"{_COUNT_WRITERS}; savepoint {name}")
        return name, int(count)

    def _failed(self) -> bool:
        """Whether a statement has failed, so that the server takes nothing but a rollback."""
        session = self._session
        return session is not None and session.info.transaction_status == TransactionStatus.INERROR

    def _run(self, statement: str) -> list[tuple[Any, ...]]:
        assert self._session is not None  # noqa: S101 - there are connections, so it was begun
        cursor = self._session.execute(statement)
        return [] if cursor.description is None else cursor.fetchall()


def _is_alive(session: SharedConnection) -> bool:
    """Whether the server has not hung up, as it does when it is restarted."""
    with contextlib.suppress(Error):
        session.execute("")
    return not session.closed


def _check_isolation_level(_session: SharedConnection, level: str) -> None:
    if level not in _ISOLATION_LEVELS:
        _refuse(level)


def _nothing(_session: SharedConnection) -> None:
    pass


def _refuse(what: str) -> None:
    raise errors.NotSupportedError(
        "isolation='transaction' runs a test in one READ COMMITTED transaction, which all its "
        f"connections share; for {what} use isolation='database'"
    )
