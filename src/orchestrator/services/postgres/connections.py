"""A psycopg connection that no frozen server keeps waiting; imported when first used."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import errors, generators
from psycopg.pq import ExecStatus, PipelineStatus, TransactionStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    Steps = Generator[Any, Any, Any]

PATIENCE: Final = 5.0  # seconds


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
                elif self.on_silence and time.monotonic() - since > PATIENCE:
                    try:
                        self.on_silence()
                    except BaseException:
                        self.close()  # nobody could read what it may say one day
                        raise
                    since = time.monotonic()
                step = gen.send(ready)
        except StopIteration as end:
            return end.value
