"""`Postgres`: a server of the class's own; every test gets a schema or a database."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Self

from orchestrator.services import (
    options,
    postgres_clients,
    postgres_preparation,
    postgres_relatives,
    postgres_strict,
)
from orchestrator.services.drivers import driver
from orchestrator.services.once import OwnStack, locked_property
from orchestrator.services.postgres_admin import Admin
from orchestrator.services.postgres_isolation import isolation, name_of
from orchestrator.services.postgres_memory import Storage
from orchestrator.services.postgres_server import PostgresServer
from orchestrator.services.postgres_transaction import SessionOfTests
from orchestrator.services.runtime import address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import psycopg
    import sqlalchemy
    import sqlalchemy.ext.asyncio
    import sqlalchemy.orm

    from orchestrator.services.postgres_transaction import SharedTransaction
    from orchestrator.services.runtime import Runtime


class Postgres(PostgresServer):
    """A PostgreSQL server, version 13 or later.

    Attributes:
        database: The class's database.
        username: Its superuser.
        password: The superuser's password, one line; a random one without. Logs and errors show no
            password; an ordinary word is hidden where passwords stand only.
        settings: More of postgresql.conf, such as ``{"wal_level": "logical"}``.
        init: SQL and shell files (``.sql``, ``.sql.gz``, ``.sh``) that the server runs at its first
            start, in this order.
        isolation: What every test gets. ``"schema"``: an empty schema, first in the search path.
            ``"database"``: a clone of the class's database. ``"transaction"``: connections that
            share one transaction, which is rolled back; what they commit is a savepoint.
            ``"none"``: the class's database as it is. With ``migrate`` or ``init``, ``"schema"``
            becomes a clone too: a schema cannot carry what they made.
        migrate: Run once for the class: a function (or coroutine function) of a SQLAlchemy engine,
            a SQLAlchemy ``MetaData``, or an Alembic ``Config``, upgraded to ``head``.
        databases: Names of more databases, or a mapping of name to what migrates it; tests reach
            them by `in_database`.
        roles: Names of login roles without privileges, made before the migrations, which grant them
            what they need; tests reach them by `as_role`.
        extensions: Names of extensions to create in each database, before the migrations.
        durable: Whether data are on the disk and commits wait for it, as in production; tests need
            it seldom. Otherwise data are in memory, except with a limit of ``memory``, until `kill`
            or `restart` copy them to the disk.
        strict: Whether a test fails that reached for what another test had, also when the code
            under test swallowed the refusal; the error names both. With ``"schema"``, a test then
            is no superuser: it owns its schema, and reads what the class made.
    """

    _schema: str = options.private("public")
    _test: str = options.private("")
    _clients: OwnStack | None = options.private(None)
    _shared: SharedTransaction | None = options.private(None)
    _of_class: Postgres | None = options.private(None)
    _related: dict[str, Postgres] | None = options.private(None)
    _role_passwords: Mapping[str, str] | None = options.private(None)
    _test_password: str = options.private("")
    _tests: dict[str, bool] | None = options.private(None)
    _storage: Storage | None = options.private(None)

    def _bound(self, runtime: Runtime, /, **changes: Any) -> Self:
        """The handle, with passwords in place."""
        return super()._bound(
            runtime,
            **{
                "password": self.password or runtime.password,
                "_role_passwords": {role: options.random_password() for role in self.roles},
                "_test_password": options.random_password(),
                "_tests": {},
                "_storage": Storage(),
                "_related": {},
                "_clients": OwnStack(),
                **changes,
            },
        )

    def _joined(self, runtime: Runtime, /) -> Self:
        """The handle for one more class; what it opens is closed with that class."""
        return self.copy_with(_runtime=runtime, _clients=OwnStack(), _related={})

    def prepare(self) -> None:
        """Make roles, databases and extensions, and run the migrations."""
        postgres_preparation.prepare(self)

    @contextlib.contextmanager
    def isolated(self, test: str) -> Iterator[Self]:
        """A handle that sees a schema, a database or a transaction of the test's own."""
        name = name_of(test)
        with OwnStack() as clients:
            role: Mapping[str, Any] = {}
            if self.strict:
                role = clients.enter_context(postgres_strict.watched(self, test=name))
            changes = clients.enter_context(isolation(self, test=name, name=name))
            handle = self.copy_with(
                _test=name, _of_class=self, _related={}, _clients=clients, **role, **changes
            )
            try:
                yield handle
            finally:
                handle.cut_off()

    def release(self) -> None:
        """Close what was opened with the class's handle."""
        if self._clients:
            self._clients.close()

    def secrets(self) -> Sequence[str]:
        """The passwords, as they are and as they stand in a URL."""
        passwords = [self.password, self._test_password, *self.role_passwords.values()]
        return [text for password in passwords for text in options.spellings(password)]

    def server_info(self) -> Mapping[str, object]:
        """The server's version, the settings that are not its defaults, and where the test is."""
        return postgres_preparation.server_info(self)

    # What a test uses

    @property
    def schema(self) -> str:
        """The schema in which unqualified names are created."""
        return self._schema

    @property
    def dsn(self) -> str:
        """The libpq URI, search path included: for psycopg, psql and asyncpg."""
        return postgres_clients.uri(self, address(self.host, self.port))

    @property
    def url(self) -> str:
        """The same as `dsn`."""
        return self.dsn

    @property
    def internal_url(self) -> str:
        """The libpq URI for another container of the class."""
        return postgres_clients.uri(self, f"{self.alias}:{self.container_port}")

    @property
    def sqlalchemy_url(self) -> sqlalchemy.URL:
        """The URL for SQLAlchemy, with the psycopg driver."""
        return postgres_clients.sqlalchemy_url(self)

    @locked_property
    def engine(self) -> sqlalchemy.Engine:
        """A SQLAlchemy engine; each of its connections works in this test's state."""
        return postgres_clients.engine(self)

    @locked_property
    def async_engine(self) -> sqlalchemy.ext.asyncio.AsyncEngine:
        """A SQLAlchemy engine for asyncio; each of its connections works in this test's state."""
        return postgres_clients.async_engine(self)

    def session(self, **arguments: Any) -> sqlalchemy.orm.Session:
        """A new SQLAlchemy session on `engine`; it is closed after the test.

        Args:
            arguments: Passed on to ``Session``, such as ``expire_on_commit=False``.
        """
        made: sqlalchemy.orm.Session = driver("sqlalchemy.orm", extra="postgres").Session(
            self.engine, **arguments
        )
        self.clients.callback(made.close)
        return made

    def connect(self, **arguments: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """A new psycopg connection; it is closed after the test, if the test did not.

        Args:
            arguments: Passed on to ``psycopg.connect``, such as ``autocommit=True``. With
                ``isolation="transaction"``: ``autocommit``, ``row_factory``, ``cursor_factory``.
        """
        return postgres_clients.connect(self, **arguments)

    @locked_property
    def server_version(self) -> str:
        """Such as ``"15.8"``."""
        [[version]] = self.of_class.admin.run("show server_version")
        return str(version).partition(" ")[0]

    def in_database(self, name: str) -> Self:
        """The same for another of the class's ``databases``, isolated like the first.

        Raises:
            DeclarationError: The class does not declare it.
        """
        return self._related_by("database", name, postgres_relatives.in_database)

    def as_role(self, name: str) -> Self:
        """The same for one of the class's ``roles``.

        Raises:
            DeclarationError: The class does not declare it.
            ServiceError: With ``isolation="transaction"``, whose connections share one session.
        """
        return self._related_by("role", name, postgres_relatives.as_role)

    def kill(self, signal: str = "SIGKILL") -> None:
        """End the server as a crash does; what was committed is there after `restart`."""
        with self.storage.saving(self, crash=signal == "SIGKILL"):
            super().kill(signal)

    def restart(self) -> None:
        """Kill the server if it runs, start it, and return when it is ready again.

        Raises:
            ServiceError: It did not come back; or it had ended by itself, and with it went its
                data, which were in memory.
        """
        if self.in_memory and not self.storage.saved:
            self.kill()
        super().restart()

    # What the files of this service share

    @property
    def test(self) -> str:
        """The test's name on the server; empty for the class's handle."""
        return self._test

    @property
    def of_class(self) -> Postgres:
        """The class's handle."""
        return self._of_class or self

    @property
    def clients(self) -> OwnStack:
        """Closes what was opened with this handle."""
        assert self._clients is not None  # noqa: S101 - every bound handle has them
        return self._clients

    @property
    def shared(self) -> SharedTransaction | None:
        """The transaction of the test, with ``isolation="transaction"``."""
        return self._shared

    @property
    def role_passwords(self) -> Mapping[str, str]:
        """The password of each role."""
        return self._role_passwords or {}

    @property
    def test_password(self) -> str:
        """The password of every test's role, with ``strict=True``."""
        return self._test_password

    @locked_property
    def test_verifier(self) -> str:
        """What the server stores of `test_password`; it takes a few milliseconds to make."""
        return self.admin.verifier(self.test_password)

    @property
    def tests(self) -> dict[str, bool]:
        """The tests there have been, and whether they still run, with ``strict=True``."""
        assert self._tests is not None  # noqa: S101 - every bound handle has it
        return self._tests

    @locked_property
    def admin(self) -> Admin:
        """The connection that makes and drops tests' state; outside any database it clones."""
        database = self.database
        if self.clones:
            database = "template1" if self.database == "postgres" else "postgres"
        admin = Admin(self, database=database)
        self.clients.callback(admin.close)
        return admin

    @locked_property
    def session_of_tests(self) -> SessionOfTests:
        """The server session that all tests work in, with ``isolation="transaction"``."""
        session = SessionOfTests(self)
        self.clients.callback(session.close)
        return session

    @property
    def storage(self) -> Storage:
        """Where the server's data are."""
        assert self._storage is not None  # noqa: S101 - every bound handle has it
        return self._storage

    def cut_off(self) -> None:
        """Let no connection reach into a shared transaction any more."""
        for handle in (self, *(self._related or {}).values()):
            if handle.shared:
                handle.shared.cut_off()

    def _related_by(self, kind: str, name: str, make: Callable[[Self, str], Self]) -> Self:
        """One handle for each relative, so that its engine is one too."""
        related: dict[str, Any] = {} if self._related is None else self._related
        key = f"{kind} {name}"
        with self._lock.held():
            if key not in related:
                related[key] = make(self, name)
        found: Self = related[key]
        return found
