"""isolation="transaction": what a test does through SQLAlchemy is one transaction, rolled back.

SQLAlchemy's recipe for test suites joins one Session to one Connection, and turns the Session's
transactions into savepoints (``join_transaction_mode="create_savepoint"``). An application has an
Engine, which makes many connections; so here each connection of the test's engine shares one server
session, and SQLAlchemy's events turn *its* transactions into savepoints.

Connections begin and end in any order, savepoints only nest. While they nest, everything is exact.
A connection that only read may stay open around the others, as a session that looks at what the
code under test commits. What cannot be told apart any more, such as going back over what another
connection has committed since, is an error at the next statement: never a wrong answer.

Imported when first used, as it needs SQLAlchemy and psycopg.
"""

from __future__ import annotations

import contextlib
import select
import threading
import weakref
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy
from psycopg import Error, OperationalError, errors
from psycopg.pq import TransactionStatus

from orchestrator.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.services.postgres.admin import Admin
    from orchestrator.services.postgres.connections import SharedConnection

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


class SessionOfTests:
    """The server session that one test after the other works in, unless a test keeps hold of it."""

    def __init__(self, admin: Admin, *, database: str) -> None:
        self._admin = admin
        self._database = database
        self._session: SharedConnection | None = None

    def opened(self) -> SharedConnection:
        """The session; a new one after the server was restarted."""
        if self._session is None or self._session.closed:
            self._session = self._admin.shared_session(database=self._database)
        return self._session

    def close(self) -> None:
        """End it."""
        if self._session is not None:
            self._session.end()


@dataclass(eq=False)
class _Level:
    """One connection's savepoint.

    Attributes:
        first: The savepoint that began it.
        target: The savepoint that its rollback goes back to; later than the first when another
            connection has committed since and this one had only read.
        writers: How many savepoints had written when it began.
        wrote: Whether it had written before another connection began.
        done: Whether it was committed, and waits for those that began after it.
        mixed: Whether a connection that began before it has worked in it.
        holds_others: Whether another connection's commit went into it.
    """

    owner: weakref.ref[sqlalchemy.Connection]
    first: str
    target: str
    writers: int
    wrote: bool = False
    done: bool = False
    mixed: bool = False
    holds_others: bool = False


class SharedTransaction:
    """The transaction of one test, begun when first used.

    Args:
        alias: The service's, for errors.
        admin: Ends the session where nothing else can.
        sessions: Where it takes place.
    """

    def __init__(self, *, alias: str, admin: Admin, sessions: SessionOfTests) -> None:
        self._alias = alias
        self._admin = admin
        self._sessions = sessions
        self._session: SharedConnection | None = None
        self._levels: list[_Level] = []  # the innermost last
        self._level_of: weakref.WeakKeyDictionary[sqlalchemy.Connection, _Level] = (
            weakref.WeakKeyDictionary()
        )
        self._number = 0
        self._lost = False
        self._ended = False
        self._lock = threading.RLock()  # one session executes one statement after the other
        self._asking = threading.local()

    def engine(self, url: sqlalchemy.URL) -> sqlalchemy.Engine:
        """An engine all of whose connections work in the transaction."""
        made = sqlalchemy.create_engine(
            url,
            creator=self._connect,
            poolclass=sqlalchemy.NullPool,
            pool_reset_on_return=None,  # each transaction ends by itself, or its events do it
        )
        listen, dialect = sqlalchemy.event.listen, made.dialect
        self._asking.always = True
        made.connect().close()  # SQLAlchemy looks around at the first one, and rolls that back
        self._asking.always = False
        listen(made, "begin", self._begin)
        listen(made, "commit", self._commit)
        listen(made, "rollback", self._rollback)
        listen(made, "begin_twophase", _refuse_two_phases)
        for event in ("rollback_savepoint", "release_savepoint"):
            listen(made, event, self._end_users_savepoint)
        for event in ("do_execute", "do_executemany", "do_execute_no_params"):
            listen(made, event, self._executing(getattr(dialect, event)))
        return made

    def __enter__(self) -> None:
        """It begins when it is first used."""

    def __exit__(self, *_: object) -> None:
        self.end()

    def cut_off(self) -> None:
        """Let its connections execute nothing more; what they had begun is rolled back anyway."""
        self._ended = True

    def end(self) -> None:
        """Roll everything back, and leave the session as if nothing had been.

        Raises:
            ServiceError: The test ended it itself, with a COMMIT or ROLLBACK in SQL.
        """
        self.cut_off()
        session = self._session
        if session is None or session.closed:
            return
        if _is_active(session):  # a thread of the test is still at it
            self._admin.run("select pg_terminate_backend(%s)", [session.info.backend_pid])
            session.end()
            return
        try:
            session.execute(_END)
        except OperationalError:
            session.end()  # the server is gone, and the transaction with it
        except Error as error:
            session.end()
            raise ServiceError(
                f"{self._alias}: the test ended the transaction that isolates it, with COMMIT or "
                "ROLLBACK in SQL or with PREPARE TRANSACTION, so what it wrote may be in the "
                "class's database. Use the connection's commit() and rollback(), or "
                "isolation='database'.",
                service=self._alias,
            ) from error
        else:
            if session.holders:
                session.end()  # who holds it yet shall not reach into the next test
            else:
                session.execute("discard all")

    def _connect(self) -> SharedConnection:
        if self._ended:
            raise OperationalError(_ENDED)
        with self._lock:
            if self._session is None or _is_lost(self._session):
                self._session = self._sessions.opened()
                self._session.holders = deque()
                self._session.expected = self._is_expected
                self._session.execute(_BEGIN)
                self._levels.clear()
            self._session.holders.append(None)
            return self._session

    # What SQLAlchemy tells of its connections

    def _begin(self, connection: sqlalchemy.Connection) -> None:
        if self._ended or self._lost or _is_autocommit(connection):
            return  # its statements are told, or have a savepoint each
        with self._lock, self._noticing_the_end(connection):
            self._open(connection)

    def _commit(self, connection: sqlalchemy.Connection) -> None:
        """Keep a connection's part, as far as the shared transaction goes."""
        self._asking.now = True
        if self._ended:
            return
        with self._lock, self._noticing_the_end(connection):
            level = self._level_of.get(connection)
            if level is None or level not in self._levels:
                self._level_of.pop(connection, None)
                return
            if level is not self._levels[-1]:
                self._recover()
            if self._failed():
                self._undo(level)
            else:
                self._check_deferred(connection, level)
                level.done = True
                self._settle()
            self._level_of.pop(connection, None)

    def _rollback(self, connection: sqlalchemy.Connection) -> None:
        """Undo a connection's part."""
        self._asking.now = True
        if self._ended:
            return
        with self._lock, contextlib.suppress(OperationalError):
            level = self._level_of.pop(connection, None)
            if level is not None and level in self._levels:
                self._undo(level)

    def _end_users_savepoint(self, connection: sqlalchemy.Connection, *_: object) -> None:
        """One of ``begin_nested()``: connections that began in it would end with it."""
        if self._ended:
            return
        with self._lock, self._noticing_the_end(connection):
            self._settle()
            if self._levels and self._levels[-1] is not self._level_of.get(connection):
                self._lost = True

    def _executing(self, execute: Callable[..., None]) -> Callable[..., bool]:
        def handle(cursor: Any, statement: Any, *more: Any) -> bool:
            connection = more[-1].root_connection
            with self._lock, self._part_of(connection):
                execute(cursor, statement, *more)
            return True

        return handle

    @contextlib.contextmanager
    def _part_of(self, connection: sqlalchemy.Connection) -> Iterator[None]:
        """Around a statement: it is a part of its connection's savepoint."""
        self._check()
        level = self._level_of.get(connection)
        if level is None and _is_autocommit(connection):
            level = self._open(connection)
            try:
                yield
            except BaseException:
                self._undo(level)
                raise
            finally:
                self._level_of.pop(connection, None)
            level.done = True
            self._settle()
            return
        if level is not None and level not in self._levels:
            raise errors.InFailedSqlTransaction("the transaction has failed; roll it back first")
        if level is not None:
            for inner in self._levels[self._levels.index(level) + 1 :]:
                inner.mixed = True
        yield

    def _check(self) -> None:
        """Raise unless statements still make sense."""
        if self._ended:
            raise OperationalError(_ENDED)
        if self._lost:
            raise errors.NotSupportedError(_LOST)

    def _check_deferred(self, connection: sqlalchemy.Connection, level: _Level) -> None:
        try:
            connection.exec_driver_sql(_CHECK_DEFERRED)  # so that its error is SQLAlchemy's
        except BaseException:
            self._level_of.pop(connection, None)
            self._undo(level)
            raise

    @contextlib.contextmanager
    def _noticing_the_end(self, connection: sqlalchemy.Connection) -> Iterator[None]:
        """Let SQLAlchemy find out by itself, and in its own words, that the server is gone."""
        try:
            yield
        except OperationalError:
            connection.exec_driver_sql("select")
            raise

    def _is_expected(self) -> bool:
        """Whether SQLAlchemy has just told of the end of a transaction in this thread."""
        expected, self._asking.now = getattr(self._asking, "now", False), False
        return bool(expected or getattr(self._asking, "always", False))

    # Savepoints

    def _open(self, connection: sqlalchemy.Connection) -> _Level:
        self._settle()
        self._recover()
        if self._levels and not self._levels[-1].wrote:
            self._levels[-1].wrote = self._count_writers() > self._levels[-1].writers
        name = self._savepoint()
        level = _Level(
            owner=weakref.ref(connection), first=name, target=name, writers=self._count_writers()
        )
        self._levels.append(level)
        self._level_of[connection] = level
        return level

    def _settle(self) -> None:
        """Release what is committed and has nothing open in it any more."""
        while self._levels and self._levels[-1].done:
            level = self._levels.pop()
            if self._failed():
                self._run(f"rollback to savepoint {level.target}")
            self._run(f"release savepoint {level.first}")
            outer = self._levels[-1] if self._levels else None
            if outer is None or outer.owner() is level.owner():
                continue
            if outer.wrote:
                outer.holds_others = True
            else:
                outer.target = self._savepoint()
                outer.writers = self._count_writers()

    def _recover(self) -> None:
        """Undo the innermost level when it has failed, or its connection was left to its fate."""
        while self._levels and self._levels[-1].owner() is None and not self._levels[-1].done:
            self._undo(self._levels[-1])
        if self._levels and self._failed():
            self._undo(self._levels[-1])

    def _undo(self, level: _Level) -> None:
        inner = self._levels[self._levels.index(level) + 1 :]
        lost = level.mixed or level.holds_others or bool(inner)
        try:
            self._run(f"rollback to savepoint {level.target}")
        except errors.InvalidSavepointSpecification:  # a savepoint of the user's took it along
            self._run(f"rollback to savepoint {level.first}")
            lost = True
        self._run(f"release savepoint {level.first}")
        del self._levels[self._levels.index(level) :]
        self._lost = self._lost or lost

    def _savepoint(self) -> str:
        self._number += 1
        name = f"orchestrator_{self._number}"
        self._run(f"savepoint {name}")
        return name

    def _count_writers(self) -> int:
        [[count]] = self._run(_COUNT_WRITERS)
        return int(count)

    def _failed(self) -> bool:
        """Whether a statement has failed, so that the server takes nothing but a rollback."""
        session = self._session
        return session is not None and session.info.transaction_status == TransactionStatus.INERROR

    def _run(self, statement: str) -> list[tuple[Any, ...]]:
        assert self._session is not None  # noqa: S101 - there are connections, so it was begun
        cursor = self._session.execute(statement)
        return [] if cursor.description is None else cursor.fetchall()


def _is_autocommit(connection: sqlalchemy.Connection) -> bool:
    return connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"


def _is_active(session: SharedConnection) -> bool:
    """Whether a statement is on its way, of a thread."""
    return session.info.transaction_status == TransactionStatus.ACTIVE


def _is_lost(session: SharedConnection) -> bool:
    """Whether the server has hung up: only then is there something to read between statements."""
    if session.closed or _is_active(session):
        return session.closed
    waiting = select.poll()
    waiting.register(session.fileno(), select.POLLIN)
    if waiting.poll(0):
        with contextlib.suppress(Error):
            session.execute("select 1")
    return session.closed


def _refuse_two_phases(*_: object) -> None:
    raise errors.NotSupportedError(
        "isolation='transaction' has no two-phase transactions; use isolation='database'"
    )
