"""The superuser's connection that makes and drops tests' state; it outlives a restart.

Imported when first used, as it needs psycopg.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg
from psycopg import errors, generators
from psycopg.pq import ExecStatus, PipelineStatus, TransactionStatus

from orchestrator.errors import ServiceError
from orchestrator.probes import ATTEMPT
from orchestrator.probes.waiting import FROZEN, answers, await_ready
from orchestrator.services.once import ProcessLock

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from orchestrator.services.service import Service

    Parameters = Sequence[object] | Mapping[str, object]
    Result = TypeVar("Result")
    Steps = Generator[Any, Any, Any]

# Whoever still holds a lock by then will not let go of it. What a test sets for everybody is not
# meant for us. What is asked again and again is planned once, though the counter of oids, by which
# catalogs are searched, tells the planner nothing of how few rows it will find.
OPTIONS: Final = (
    "-clock_timeout=10s -cstatement_timeout=0 -cdefault_transaction_read_only=off "
    "-cplan_cache_mode=force_generic_plan -cenable_seqscan=off -cjit=off"
)
"""The settings of our own sessions."""
_CONNECT: Final = 10  # seconds
_PATIENCE: Final = 5.0  # seconds


class PatientConnection(psycopg.Connection[Any]):
    """A connection that looks around when its server is silent for long.

    A frozen server keeps its connections open, and libpq has no timeout for an answer: one would
    wait for ever. A slow statement is another matter: then the server answers others.

    Attributes:
        on_silence: Called whenever the server has been silent for so long; it raises what ends the
            waiting.
    """

    on_silence: Callable[[], None] | None = None
    _asked: dict[str, bytes] | None = None

    def ask(self, statement: str, parameter: str | None = None) -> str:
        """Execute it in one round trip; the last value that it gives, as text.

        A cursor takes four times as long; half of what clean state costs was that.

        Args:
            statement: Or several; none of them takes effect if one fails.
            parameter: What stands for $1; with it the statement is prepared once.
        """
        pgconn = self.pgconn
        with self.lock:
            if parameter is None:
                pgconn.send_query(statement.encode())
            else:
                pgconn.send_query_prepared(self._name_of(statement), [parameter.encode()])
            results = self.wait(generators.execute(pgconn))
            value = b""
            for result in results:
                if result.status == ExecStatus.FATAL_ERROR:
                    if pgconn.transaction_status == TransactionStatus.INERROR:
                        pgconn.send_query(b"rollback")
                        self.wait(generators.execute(pgconn))
                    raise errors.error_from_result(result)
                if result.status == ExecStatus.TUPLES_OK and result.ntuples:
                    value = result.get_value(result.ntuples - 1, 0) or b""
        return value.decode()

    def post(self, statement: str) -> None:
        """Send it without waiting: the server executes one after the other, each by itself.

        `settle` waits for the oldest. Nothing else may be executed in this connection.
        """
        pgconn = self.pgconn
        with self.lock:
            if pgconn.pipeline_status == PipelineStatus.OFF:
                pgconn.enter_pipeline_mode()
            pgconn.send_query_params(statement.encode(), None)
            pgconn.pipeline_sync()
            pgconn.flush()

    def settle(self) -> None:
        """Wait for the oldest statement that was posted; raise its error."""
        failed = None
        with self.lock:
            while True:
                result = self.wait(generators.fetch(self.pgconn))
                if result is None:
                    continue
                if result.status == ExecStatus.PIPELINE_SYNC:
                    break
                if result.status == ExecStatus.FATAL_ERROR:
                    failed = errors.error_from_result(result)
        if failed is not None:
            raise failed

    def _name_of(self, statement: str) -> bytes:
        """What a statement is called that has been prepared."""
        if self._asked is None:
            self._asked = {}
        if statement not in self._asked:
            name = b"orchestrator_%d" % len(self._asked)
            self.pgconn.send_prepare(name, statement.encode())
            [result] = self.wait(generators.execute(self.pgconn))
            if result.status == ExecStatus.FATAL_ERROR:
                raise errors.error_from_result(result)
            self._asked[statement] = name
        return self._asked[statement]

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
                elif self.on_silence and time.monotonic() - since > _PATIENCE:
                    try:
                        self.on_silence()
                    except BaseException:
                        self.close()  # nobody could read what it may say one day
                        raise
                    since = time.monotonic()
                step = gen.send(ready)
        except StopIteration as end:
            return end.value


Kind = TypeVar("Kind", bound=PatientConnection)


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
        try:
            return work()
        except psycopg.OperationalError:
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
            options=options,
            **self._arguments,
        )
        connection.on_silence = partial(self._check_awake, _PATIENCE)
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
