"""The connection that makes and drops tests' state; it outlives a restart of the server."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import ServiceError
from orchestrator.probes.checks import ATTEMPT
from orchestrator.services.hooks import FROZEN, answers, await_ready
from orchestrator.services.once import driver, locked_property

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import psycopg

    from orchestrator.services.postgres.connections import PatientConnection, SharedConnection
    from orchestrator.services.service import Service

APPLICATION: Final = "orchestrator"
"""The name of our own sessions, which nobody ends."""
# Whoever still holds a lock by then will not let go of it.
_OPTIONS: Final = f"-clock_timeout=10s -capplication_name={APPLICATION}"


class Admin:
    """A superuser's connection, opened when first used, and again after it broke.

    Args:
        service: Whose server.
        dsn: The libpq URI of one of its databases.
    """

    def __init__(self, service: Service, dsn: Callable[[str], str], *, database: str) -> None:
        self._service = service
        self._dsn = dsn
        self._database = database
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._silent = False

    def run(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Execute a statement; its rows, if it has any.

        A server that was restarted since is connected to again.

        Raises:
            ServiceError: The server is gone, or frozen.
        """
        self.check_awake()
        broken = driver("psycopg", extra="postgres").OperationalError
        try:
            return self._run(statement, parameters)
        except broken:
            if self._connection is not None and not self._connection.broken:
                raise
        self.check_awake()  # another thread may have found it frozen
        self.close()
        await_ready(self._service)
        return self._run(statement, parameters)

    def check_awake(self) -> None:
        """Look whether a server that was found frozen has come back to life.

        Raises:
            ServiceError: It has not.
        """
        if self._silent:
            self.ping(timeout=ATTEMPT)

    def ping(self, *, timeout: float) -> None:
        """See whether the server answers anybody.

        Raises:
            ServiceError: It does not.
        """
        self._silent = not answers(self._service, patience=timeout)
        if self._silent:
            self.close()
            alias = self._service.alias
            raise ServiceError(f"{alias} cannot be worked with: {FROZEN}", service=alias)

    def elsewhere(self, database: str) -> Admin:
        """The same in another database; whoever asks closes it."""
        return Admin(self._service, self._dsn, database=database)

    @locked_property
    def major(self) -> int:
        """The server's major version."""
        [[number]] = self.run("show server_version_num")
        return int(number) // 10000

    def verifier(self, password: str) -> str:
        """What the server stores of a password, so that the password itself is never sent."""
        self.run("select 1")
        assert self._connection is not None  # noqa: S101 - it was just used
        made = self._connection.pgconn.encrypt_password(
            password.encode(),
            b"anybody",
            b"scram-sha-256",  # which does not depend on the role
        )
        return made.decode()

    def shared_session(self, *, database: str) -> SharedConnection:
        """A session that several connections of SQLAlchemy can share; whoever asks closes it.

        Raises:
            ServiceError: The server is frozen.
        """
        driver("psycopg", extra="postgres")
        from orchestrator.services.postgres.connections import SharedConnection

        session = self._connect(
            SharedConnection, database=database, options=f"-capplication_name={APPLICATION}"
        )
        assert isinstance(session, SharedConnection)  # noqa: S101 - for the type checker
        return session

    def close(self) -> None:
        """Close it; the next statement opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self, statement: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        if self._connection is None:
            driver("psycopg", extra="postgres")
            from orchestrator.services.postgres.connections import PatientConnection

            self._connection = self._connect(
                PatientConnection, database=self._database, options=_OPTIONS
            )
        cursor = self._connection.execute(statement, parameters or None)
        return [] if cursor.description is None else cursor.fetchall()

    def _connect(
        self, kind: type[PatientConnection], *, database: str, options: str
    ) -> PatientConnection:
        """A new connection that does not wait for a frozen server."""
        from orchestrator.services.postgres.connections import CONNECT, PATIENCE

        self.check_awake()
        connection = kind.connect(
            self._dsn(database), autocommit=True, connect_timeout=CONNECT, options=options
        )
        connection.on_silence = partial(self.ping, timeout=PATIENCE)
        return connection


def quoted(name: str) -> str:
    """A name as SQL wants it where names stand."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL wants it where parameters are not allowed."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"e'{escaped}'"
