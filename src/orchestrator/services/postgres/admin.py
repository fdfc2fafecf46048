"""The superuser's connection that makes and drops tests' state; it outlives a restart."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from orchestrator.errors import ServiceError
from orchestrator.probes import ATTEMPT
from orchestrator.probes.waiting import FROZEN, answers, await_ready
from orchestrator.services.once import ProcessLock, driver

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.services.postgres.connections import PatientConnection
    from orchestrator.services.service import Service

    Parameters = Sequence[object] | Mapping[str, object]
    Kind = TypeVar("Kind", bound=PatientConnection)
    Result = TypeVar("Result")

APPLICATION: Final = "orchestrator"
"""The name of our own sessions, which nobody ends."""
LOGIN_UNTIL: Final = "9999-12-31 UTC"
"""How long the logins of tests are valid, and nobody else's."""
# Whoever still holds a lock by then will not let go of it. What a test sets for everybody is not
# meant for us. What is asked again and again is planned once, though the counter of oids, by which
# catalogs are searched, tells the planner nothing of how few rows it will find.
OPTIONS: Final = (
    "-clock_timeout=10s -cstatement_timeout=0 -cdefault_transaction_read_only=off "
    "-cplan_cache_mode=force_generic_plan -cenable_seqscan=off -cjit=off"
)
"""The settings of our own sessions."""
_CONNECT: Final = 10  # seconds


class Admin:
    """A connection that is opened when first used, and again after it broke.

    Args:
        service: Whose server.
        dsn: The libpq URI of one of its databases.
        database: The one to connect to.
        arguments: What psycopg needs to connect beside the URI.

    Attributes:
        spare: Other sessions, as good as new, to use again; they end with this one.
    """

    def __init__(
        self,
        service: Service,
        dsn: Callable[[str], str],
        *,
        database: str,
        arguments: Mapping[str, Any],
    ) -> None:
        self._service = service
        self._arguments = arguments
        self._dsn = dsn
        self._database = database
        self._lock = ProcessLock()
        self._connection: PatientConnection | None = None
        self._silent = False
        self.spare: list[Any] = []

    def run(self, statement: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """Execute a statement; its rows, if it has any.

        Args:
            statement: Or several, where there are no parameters.
            parameters: What stands for its placeholders.

        Raises:
            ServiceError: The server is gone, or frozen.
        """
        return self._again_if_broken(lambda: self._run(statement, parameters))

    def ask(self, statement: str, parameter: str | None = None) -> str:
        """Execute what is executed for every test; see `PatientConnection.ask`.

        Raises:
            ServiceError: The server is gone, or frozen.
        """
        return self._again_if_broken(lambda: self._opened().ask(statement, parameter))

    def _again_if_broken(self, work: Callable[[], Result]) -> Result:
        broken = driver("psycopg", extra="postgres").OperationalError
        try:
            return work()
        except broken:
            if self._connection is not None and not self._connection.broken:
                raise
        self.close()
        if self._silent:  # which another thread has found
            self._check_awake(ATTEMPT)
        await_ready(self._service)  # it may have been restarted
        return work()

    def connect(self, kind: type[Kind], *, options: str = "") -> Kind:
        """A new connection that does not wait for a frozen server; whoever asks closes it.

        Raises:
            ServiceError: The server is frozen.
        """
        if self._silent:
            self._check_awake(ATTEMPT)
        connection = kind.connect(
            self._dsn(self._database),
            autocommit=True,
            connect_timeout=_CONNECT,
            application_name=APPLICATION,
            options=options,
            **self._arguments,
        )
        from orchestrator.services.postgres.connections import PATIENCE

        connection.on_silence = partial(self._check_awake, PATIENCE)
        return connection

    def elsewhere(self, database: str) -> Admin:
        """The same in another database; whoever asks closes it."""
        return Admin(self._service, self._dsn, database=database, arguments=self._arguments)

    def verifier(self, password: str) -> str:
        """What the server stores of a password, so that the password itself is never sent."""
        made = self._opened().pgconn.encrypt_password(
            password.encode(),
            b"anybody",
            b"scram-sha-256",  # which does not depend on the role
        )
        return made.decode()

    @property
    def major(self) -> int:
        """The server's major version."""
        return self._opened().info.server_version // 10000

    def close(self) -> None:
        """Close it; the next statement opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        while self.spare:
            self.spare.pop().close()

    def _run(self, statement: str, parameters: Parameters) -> list[tuple[Any, ...]]:
        cursor = self._opened().execute(statement, parameters or None)
        return [] if cursor.description is None else cursor.fetchall()

    def _opened(self) -> PatientConnection:
        with self._lock.held():
            if self._connection is None:
                driver("psycopg", extra="postgres")
                from orchestrator.services.postgres.connections import PatientConnection

                self._connection = self.connect(PatientConnection, options=OPTIONS)
                # Else it forgets what others have prepared.
                self._connection.prepare_threshold = None
            return self._connection

    def _check_awake(self, timeout: float) -> None:
        """Raise ServiceError unless the server answers anybody; then it is asked again."""
        self._silent = not answers(self._service, patience=timeout)
        if self._silent:
            self.close()
            alias = self._service.alias
            raise ServiceError(f"{alias} cannot be worked with: {FROZEN}", service=alias)


def quoted(name: str) -> str:
    """A name as SQL wants it where names stand."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL wants it where parameters are not allowed."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"e'{escaped}'"
