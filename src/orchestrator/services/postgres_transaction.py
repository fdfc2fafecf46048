"""isolation="transaction": a test's connections share one transaction, which is rolled back."""

from __future__ import annotations

import contextlib
import select
import threading
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import ServiceError
from orchestrator.services.drivers import driver
from orchestrator.services.postgres_admin import APPLICATION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import psycopg

    from orchestrator.services.postgres import Postgres

_BEGIN: Final = "begin; savepoint orchestrator"
_END: Final = "rollback to savepoint orchestrator; rollback"
_TAKEN: Final = ("autocommit", "row_factory", "cursor_factory")


@contextlib.contextmanager
def transaction(service: Postgres, name: str) -> Iterator[Mapping[str, Any]]:
    """One transaction for one test.

    Raises:
        ServiceError: The test ended it itself, with a COMMIT or ROLLBACK in SQL.
    """
    del name
    shared = SharedTransaction(service)
    try:
        yield {"_shared": shared}
    finally:
        shared.end()


class SharedTransaction:
    """The transaction of one test, begun when first used."""

    def __init__(self, service: Postgres) -> None:
        import asyncio  # not at import: declaring must be cheap

        driver("psycopg", extra="postgres")
        from orchestrator.services.postgres_savepoints import Savepoints

        self._service = service
        self._session: psycopg.Connection[Any] | None = None
        self._savepoints = Savepoints()
        self._lock = threading.Lock()
        self._async_lock = asyncio.Lock()

    def connect(self, **arguments: Any) -> psycopg.Connection[Any]:
        """A connection of psycopg that works in the transaction.

        Args:
            arguments: ``autocommit``, ``row_factory`` and ``cursor_factory`` of psycopg.
        """
        from orchestrator.services.postgres_nested import NestedConnection

        self._check(arguments)
        connection = NestedConnection(self._begun().pgconn)
        connection.lock = self._lock
        self._join(connection, arguments)
        return connection

    async def connect_async(self, **arguments: Any) -> psycopg.AsyncConnection[Any]:
        """The same for asyncio."""
        from orchestrator.services.postgres_nested import NestedAsyncConnection

        self._check(arguments)
        connection = NestedAsyncConnection(self._begun().pgconn)
        connection.lock = self._async_lock
        self._join(connection, arguments)
        return connection

    def cut_off(self) -> None:
        """Let its connections execute nothing more."""
        self._savepoints.ended = True

    def end(self) -> None:
        """Roll everything back, and leave the session as if nothing had been."""
        self.cut_off()
        if self._session is not None and not self._session.closed:
            _end(self._service, self._session)

    def _begun(self) -> psycopg.Connection[Any]:
        self._savepoints.check()
        with self._lock:  # several threads may be the first
            if self._session is None or _is_lost(self._session):
                self._session = self._service.session_of_tests.opened()
                self._session.execute(_BEGIN)
                self._savepoints.levels.clear()
            return self._session

    def _check(self, arguments: Mapping[str, Any]) -> None:
        for name in arguments:
            if name not in _TAKEN:
                raise ServiceError(
                    f"{self._service.alias}: with isolation='transaction' all connections share "
                    f"one session, so connect() takes {', '.join(_TAKEN)} only, not {name}",
                    service=self._service.alias,
                )

    def _join(self, connection: Any, arguments: Mapping[str, Any]) -> None:
        connection.savepoints = self._savepoints
        connection.prepare_threshold = None  # names of prepared statements would collide
        connection._autocommit = arguments.get("autocommit", False)  # noqa: SLF001 - as psycopg does
        for name in _TAKEN[1:]:
            if name in arguments:
                setattr(connection, name, arguments[name])


class SessionOfTests:
    """The server session that one test after the other works in."""

    def __init__(self, service: Postgres) -> None:
        self._service = service
        self._connection: psycopg.Connection[Any] | None = None

    def opened(self) -> psycopg.Connection[Any]:
        """The session; a new one after the server was restarted."""
        if self._connection is None or self._connection.closed:
            self._connection = self._service.admin.connect(application_name=APPLICATION)
        return self._connection

    def close(self) -> None:
        """End it."""
        if self._connection is not None:
            self._connection.close()


def _is_lost(session: psycopg.Connection[Any]) -> bool:
    """Whether the server has hung up: only then is there something to read between statements."""
    if session.closed or _is_active(session):
        return session.closed
    waiting = select.poll()
    waiting.register(session.fileno(), select.POLLIN)
    if waiting.poll(0):
        with contextlib.suppress(driver("psycopg", extra="postgres").Error):
            session.execute("select 1")
    return session.closed


def _is_active(session: psycopg.Connection[Any]) -> bool:
    """Whether a statement is on its way, of a thread or a task."""
    status = driver("psycopg", extra="postgres").pq.TransactionStatus
    return bool(session.info.transaction_status == status.ACTIVE)


def _end(service: Postgres, session: psycopg.Connection[Any]) -> None:
    psycopg = driver("psycopg", extra="postgres")
    if _is_active(session):
        # A thread or a task of the test is still at it.
        service.admin.run("select pg_terminate_backend(%s)", [session.info.backend_pid])
        session.close()
        return
    try:
        session.execute(_END)
    except psycopg.OperationalError:
        session.close()  # the server is gone, and the transaction with it
    except psycopg.Error as error:
        session.close()
        raise ServiceError(
            f"{service.alias}: the test ended the transaction that isolates it, with COMMIT or "
            "ROLLBACK in SQL or with PREPARE TRANSACTION, so what it wrote may be in the class's "
            "database. Use the connection's commit() and rollback(), or isolation='database'.",
            service=service.alias,
        ) from error
    else:
        session.execute("discard all")
