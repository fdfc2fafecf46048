"""`Postgres`: a server of the class's own, with clean state for every test."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Self

from orchestrator.errors import DeclarationError, OrchestratorError, ServiceError
from orchestrator.services import options
from orchestrator.services.hooks import address
from orchestrator.services.once import OwnStack, driver, locked_property
from orchestrator.services.postgres import isolation, setup
from orchestrator.services.postgres.admin import Admin
from orchestrator.services.postgres.clients import Login, make_async_engine, make_engine
from orchestrator.services.postgres.server import PostgresServer, Storage
from orchestrator.services.secret import masked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import psycopg
    import sqlalchemy
    import sqlalchemy.ext.asyncio
    import sqlalchemy.orm

    from orchestrator.services.hooks import Runtime
    from orchestrator.services.postgres.transaction import SessionOfTests, SharedTransaction


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
            ``"database"``: a clone of the class's database. ``"transaction"``: an engine whose
            connections share one transaction, which is rolled back; what they commit is a
            savepoint. ``"none"``: the class's database as it is. With ``migrate`` or ``init``,
            ``"schema"`` becomes a clone too: a schema cannot carry what they made.
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
    """

    _schema: str = options.private("public")
    _test: str = options.private("")
    _transaction: SharedTransaction | None = options.private(None)
    _of_class: Postgres | None = options.private(None)
    _clients: OwnStack | None = options.private(None)
    _related: dict[str, Postgres] | None = options.private(None)
    _role_passwords: Mapping[str, str] | None = options.private(None)
    _storage: Storage | None = options.private(None)

    # Hooks

    def required_modules(self) -> Mapping[str, str | None]:
        """What only `dsn` and the like need not: a test may have another driver."""
        modules: dict[str, str | None] = {}
        if self.isolation != "none" or self.roles or self.databases or self.extensions:
            modules["psycopg"] = "postgres"
        if self.isolation == "transaction" or self.migrate is not None:
            modules |= {"sqlalchemy": "postgres", "psycopg": "postgres"}
        return modules

    def prepare(self) -> None:
        """Make roles, databases and extensions, and run the migrations."""
        if not any((self.roles, self.databases, self.extensions, self.migrate)):
            return
        with contextlib.closing(self._admin_of(self.database)) as admin:
            setup.make_roles(admin, self._role_passwords or {})
            setup.make_databases(admin, self.databases)
        for handle in (self, *map(self.in_database, self.databases)):
            with contextlib.closing(self._admin_of(handle.database)) as admin:
                setup.make_extensions(admin, self.extensions, alias=self.alias)
            handle._migrate()

    @contextlib.contextmanager
    def isolated(self, test: str) -> Iterator[Self]:
        """A handle that sees a schema, a database or a transaction of the test's own."""
        name = isolation.name_of(test)
        with OwnStack() as clients:
            changes = clients.enter_context(self._state(test=name, own=name))
            related: dict[str, Postgres] = {}
            handle = self.copy_with(
                _test=name, _of_class=self, _related=related, _clients=clients, **changes
            )
            try:
                yield handle
            finally:
                for transaction in (handle._transaction, *_transactions(related)):
                    if transaction is not None:
                        transaction.cut_off()

    def release(self) -> None:
        """Close what was opened with the class's handle."""
        if self._clients:
            self._clients.close()

    def secrets(self) -> Sequence[str]:
        """The passwords, as they are and as they stand in a URL."""
        roles = (self._role_passwords or {}).values()
        return [*super().secrets(), *(text for it in roles for text in options.spellings(it))]

    def server_info(self) -> Mapping[str, object]:
        """The server's version, the settings that are not its defaults, and where the test is."""
        [[version, settings]] = self._class._admin.run("""
            select version(), coalesce(string_agg(name || '=' || current_setting(name), ' '), '')
            from pg_settings where source = 'command line' or sourcefile like '%%auto.conf'
        """)
        where = {"database": self.database, "schema": self.schema, "isolation": self.isolation}
        return {"server": version, "settings": settings, **where}

    # What a test uses

    @property
    def schema(self) -> str:
        """The schema in which unqualified names are created."""
        return self._schema

    @property
    def dsn(self) -> str:
        """The libpq URI, search path included: for psycopg, psql and asyncpg.

        With ``isolation="transaction"`` it leads past the test's transaction: another program sees
        what the class has committed.
        """
        return self._login.uri(address(self.host, self.port))

    @property
    def url(self) -> str:
        """The same as `dsn`."""
        return self.dsn

    @property
    def internal_url(self) -> str:
        """The libpq URI for another container of the class."""
        return self._login.uri(f"{self.alias}:{self.container_port}")

    @property
    def sqlalchemy_url(self) -> sqlalchemy.URL:
        """The URL for SQLAlchemy, with the psycopg driver; where it leads, see `dsn`."""
        return self._login.sqlalchemy_url()

    @locked_property
    def engine(self) -> sqlalchemy.Engine:
        """A SQLAlchemy engine; each of its connections works in this test's state."""
        url = self.sqlalchemy_url
        if self._transaction is not None:
            return self._transaction.engine(url)
        made = make_engine(url, pooled=bool(self._test))
        self._closing.callback(made.dispose)
        return made

    @locked_property
    def async_engine(self) -> sqlalchemy.ext.asyncio.AsyncEngine:
        """A SQLAlchemy engine for asyncio; each of its connections works in this test's state.

        Raises:
            ServiceError: With ``isolation="transaction"``, which is for synchronous engines.
        """
        if self._transaction is not None:
            self._refuse("async_engine needs sessions of its own")
        clients = self._closing if self._test else None
        return make_async_engine(self.sqlalchemy_url, dsn=self.dsn, clients=clients)

    def session(self, **arguments: Any) -> sqlalchemy.orm.Session:
        """A new SQLAlchemy session on `engine`; it is closed after the test.

        Args:
            arguments: Passed on to ``Session``, such as ``expire_on_commit=False``.
        """
        made: sqlalchemy.orm.Session = driver("sqlalchemy.orm", extra="postgres").Session(
            self.engine, **arguments
        )
        self._closing.callback(made.close)
        return made

    def connect(self, **arguments: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """A new psycopg connection; it is closed after the test, if the test did not.

        Args:
            arguments: Passed on to ``psycopg.connect``, such as ``autocommit=True``.

        Raises:
            ServiceError: With ``isolation="transaction"``, which only SQLAlchemy can join.
        """
        if self._transaction is not None:
            self._refuse("connect() of psycopg cannot join the test's transaction; use engine")
        connection: psycopg.Connection[tuple[Any, ...]]
        connection = driver("psycopg", extra="postgres").connect(self.dsn, **arguments)
        self._closing.callback(connection.close)
        return connection

    @locked_property
    def server_version(self) -> str:
        """Such as ``"15.8"``."""
        [[version]] = self._class._admin.run("show server_version")
        return str(version).partition(" ")[0]

    def in_database(self, name: str) -> Self:
        """The same for another of the class's ``databases``, isolated like the first.

        Raises:
            DeclarationError: The class does not declare it.
        """
        if name == self.database or name not in self.databases:
            raise DeclarationError(
                f"{self.alias} has no other database {name!r}; it has {_listed(self.databases)}"
            )
        return self._relative(f"database {name}", lambda: self._in_database(name))

    def as_role(self, name: str) -> Self:
        """The same for one of the class's ``roles``.

        Raises:
            DeclarationError: The class does not declare it.
            ServiceError: With ``isolation="transaction"``, whose connections share one session.
        """
        if name not in self.roles:
            raise DeclarationError(
                f"{self.alias} has no role {name!r}; it has {_listed(self.roles)}"
            )
        if self._transaction is not None:
            self._refuse("a role needs sessions of its own")
        password = (self._role_passwords or {})[name]
        return self._relative(
            f"role {name}", lambda: self.copy_with(username=name, password=password, _related={})
        )

    def kill(self, signal: str = "SIGKILL") -> None:
        """End the server as a crash does; what was committed is there after `restart`."""
        assert self._storage is not None  # noqa: S101 - every bound handle has it
        with self._storage.saving(self, crash=signal == "SIGKILL"):
            super().kill(signal)

    def restart(self) -> None:
        """Kill the server if it runs, start it, and return when it is ready again.

        Raises:
            ServiceError: It did not come back; or it had ended by itself, and with it went its
                data, which were in memory.
        """
        if self._storage is not None and not self._storage.on_disk:
            self.kill()
        super().restart()

    # How it is bound, and what its handles share

    def _bound(self, runtime: Runtime, /, **changes: Any) -> Self:
        """The handle, with passwords in place."""
        return super()._bound(
            runtime,
            _role_passwords={role: options.random_password() for role in self.roles},
            _storage=Storage(on_disk=not self._in_memory),
            _related={},
            _clients=OwnStack(),
            **changes,
        )

    def _joined(self, runtime: Runtime, /) -> Self:
        """The handle for one more class; what it opens is closed with that class."""
        return self.copy_with(_runtime=runtime, _clients=OwnStack(), _related={})

    @property
    def _class(self) -> Postgres:
        """The class's handle."""
        return self._of_class or self

    @property
    def _closing(self) -> OwnStack:
        """Closes what was opened with this handle."""
        assert self._clients is not None  # noqa: S101 - every bound handle has them
        return self._clients

    @property
    def _login(self) -> Login:
        """How this handle's connections log in, and what their sessions begin with.

        The application's name tells whose sessions are left after the test.
        """
        session = ""
        if self._test:
            path = str(self.settings.get("search_path", "public")).replace(" ", "")
            own = "" if self.schema == "public" else f"-csearch_path={self.schema},{path} "
            session = f"{own}-capplication_name={self._test}"
        return Login(
            host=self.host,
            port=self.port,
            username=self.username,
            password=self.password or "",
            database=self.database,
            session=session,
        )

    @locked_property
    def _admin(self) -> Admin:
        """The connection that makes and drops tests' state; outside any database it clones."""
        database = self.database
        if self._clones:
            database = "template1" if self.database == "postgres" else "postgres"
        admin = self._admin_of(database)
        self._closing.callback(admin.close)
        return admin

    def _admin_of(self, database: str) -> Admin:
        def dsn(name: str) -> str:
            return self.copy_with(database=name).dsn

        return Admin(self, dsn, database=database)

    @locked_property
    def _session_of_tests(self) -> SessionOfTests:
        """The server session that all tests work in, with ``isolation="transaction"``."""
        for module in ("sqlalchemy", "psycopg"):
            driver(module, extra="postgres")
        from orchestrator.services.postgres.transaction import SessionOfTests

        session = SessionOfTests(self._admin, database=self.database)
        self._closing.callback(session.close)
        return session

    @contextlib.contextmanager
    def _state(self, *, test: str, own: str) -> Iterator[Mapping[str, Any]]:
        """What a test's handle has otherwise than this one, the class's; gone after the block.

        Args:
            test: The test, as `name_of` tells it.
            own: What its schema or database is called.
        """
        if self.isolation == "none":
            yield {}
            return
        changes: Mapping[str, Any]
        state: contextlib.AbstractContextManager[None]
        if self._clones:
            state = isolation.clone(
                self._admin, own, of=self.database, durable=self.durable, alias=self.alias
            )
            changes = {"database": own}
        elif self.isolation == "schema":
            state = isolation.schema(self._admin, own, roles=self.roles)
            changes = {"_schema": own}
        else:
            state = transaction = self._new_transaction()
            changes = {"_transaction": transaction}
        leftovers = isolation.Leftovers(self._admin, shared=not self._clones)
        with leftovers.cleared(state, test=test, own=own):
            yield changes

    def _new_transaction(self) -> SharedTransaction:
        sessions = self._session_of_tests
        from orchestrator.services.postgres.transaction import SharedTransaction

        return SharedTransaction(alias=self.alias, admin=self._admin, sessions=sessions)

    def _in_database(self, name: str) -> Self:
        of_class = self._class
        if of_class is self:
            migrate = self.databases[name] if isinstance(self.databases, Mapping) else None
            return self.copy_with(database=name, migrate=migrate, init=(), _related={})
        other = of_class.in_database(name)
        number = list(self.databases).index(name) + 2
        own = f"{self._test}_{number}" if other._clones else self._test
        changes = self._closing.enter_context(other._state(test=self._test, own=own))
        apart = {"database": name, "_of_class": other, "_related": {}, "_transaction": None}
        return self.copy_with(**{**apart, **changes})

    def _relative(self, key: str, make: Callable[[], Self]) -> Self:
        """One handle for each relative, so that its engine is one too."""
        related: dict[str, Any] = {} if self._related is None else self._related
        with self._lock.held():
            if key not in related:
                related[key] = make()
        found: Self = related[key]
        return found

    def _migrate(self) -> None:
        if self.migrate is None:
            return
        try:
            setup.run_migration(
                self.migrate, engine=self.engine, async_engine=lambda: self.async_engine
            )
        except OrchestratorError:
            raise
        except Exception as error:
            raise ServiceError(
                f"{self.alias}: the migration failed: {type(error).__name__}: "
                f"{masked(str(error), self.secrets())}",
                service=self.alias,
            ) from error

    def _refuse(self, what: str) -> NoReturn:
        raise ServiceError(
            f"{self.alias}: with isolation='transaction' all of a test is one session's "
            f"transaction, and {what}. Use isolation='database' or 'schema'.",
            service=self.alias,
        )


def _transactions(handles: Mapping[str, Postgres]) -> list[SharedTransaction | None]:
    return [handle._transaction for handle in handles.values()]


def _listed(names: object) -> str:
    return ", ".join(map(repr, names)) if names else "none"  # type: ignore[call-overload]
