"""`PostgresHandle`: what a test does with its server, how ours reach it, and logins of tests."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from orchestrator.errors import ServiceError
from orchestrator.services import options
from orchestrator.services.hooks import address
from orchestrator.services.once import OwnStack, driver, locked_property
from orchestrator.services.postgres import setup
from orchestrator.services.postgres.server import PostgresServer
from orchestrator.services.postgres.setup import LOGIN_UNTIL, literal, quoted
from orchestrator.services.tls import PemFiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import psycopg
    import sqlalchemy
    import sqlalchemy.ext.asyncio
    import sqlalchemy.orm

    from orchestrator.services.postgres.admin import Admin
    from orchestrator.services.postgres.transaction import SharedTransaction


class PostgresHandle(PostgresServer):
    """The URLs, engines and connections of a running server."""

    _schema: str = options.private("public")
    _test: str = options.private("")
    _transaction: SharedTransaction | None = options.private(None)
    _of_class: Self | None = options.private(None)
    # These every bound handle has.
    _clients: OwnStack = options.private(None)
    _related: dict[str, Any] = options.private(None)
    # What a class has of a server that others use: its role's name, and the superuser's handle.
    _part: str = options.private("")
    _whole: Self | None = options.private(None)

    @property
    def ca_file(self) -> str | None:
        """With ``tls=True``, the path of a PEM file with what clients have to trust."""
        return self._class._ca_file if self._certificates else None

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
        return self._uri(address(self.host, self.port))

    @property
    def url(self) -> str:
        """The same as `dsn`."""
        return self.dsn

    @property
    def internal_url(self) -> str:
        """The libpq URI for another container of the class."""
        return self._uri(f"{self.alias}:{self.container_port}")

    @property
    def sqlalchemy_url(self) -> sqlalchemy.URL:
        """The URL for SQLAlchemy, with the psycopg driver; where it leads, see `dsn`."""
        made: sqlalchemy.URL = driver("sqlalchemy", extra="postgres").URL.create(
            "postgresql+psycopg",
            username=self.username,
            password=self.password,
            host=self.host,
            port=self.port,
            database=self.database,
        )
        return made

    @locked_property
    def engine(self) -> sqlalchemy.Engine:
        """A SQLAlchemy engine; each of its connections works in this test's state."""
        if self._transaction is not None:
            return self._transaction.engine(self.sqlalchemy_url)
        driver("psycopg", extra="postgres")
        module = driver("sqlalchemy", extra="postgres")
        # The class's has no pool: an open connection would forbid cloning.
        how = {} if self._test else {"poolclass": module.NullPool}
        made: sqlalchemy.Engine = module.create_engine(
            self.sqlalchemy_url, connect_args=self._arguments, **how
        )
        self._clients.callback(made.dispose)
        return made

    @locked_property
    def async_engine(self) -> sqlalchemy.ext.asyncio.AsyncEngine:
        """A SQLAlchemy engine for asyncio; each of its connections works in this test's state.

        Raises:
            ServiceError: With ``isolation="transaction"``, which is for synchronous engines.
        """
        self._refuse_in_transaction("async_engine needs sessions of its own")
        psycopg = driver("psycopg", extra="postgres")
        module = driver("sqlalchemy.ext.asyncio", extra="postgres")

        async def opened() -> psycopg.AsyncConnection[Any]:  # type: ignore[name-defined]
            """After the test its event loop is gone, so that nothing can be closed politely."""
            connection = await psycopg.AsyncConnection.connect(self.dsn, **self._arguments)
            self._clients.callback(connection.pgconn.finish)
            return connection

        pool = driver("sqlalchemy", extra="postgres").NullPool
        how: dict[str, Any]
        how = {"connect_args": self._arguments, "poolclass": pool}
        if self._test:
            how = {"async_creator": opened}
        made: sqlalchemy.ext.asyncio.AsyncEngine
        made = module.create_async_engine(self.sqlalchemy_url, **how)
        return made

    def session(self, **arguments: Any) -> sqlalchemy.orm.Session:
        """A new SQLAlchemy session on `engine`; it is closed after the test.

        Args:
            arguments: Passed on to ``Session``, such as ``expire_on_commit=False``.
        """
        made: sqlalchemy.orm.Session = driver("sqlalchemy.orm", extra="postgres").Session(
            self.engine, **arguments
        )
        self._clients.callback(made.close)
        return made

    def connect(self, **arguments: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """A new psycopg connection; it is closed after the test, if the test did not.

        Args:
            arguments: Passed on to ``psycopg.connect``, such as ``autocommit=True``.

        Raises:
            ServiceError: With ``isolation="transaction"``, which only SQLAlchemy can join.
        """
        self._refuse_in_transaction("connect() of psycopg cannot join it; use engine")
        connection: psycopg.Connection[tuple[Any, ...]]
        connection = driver("psycopg", extra="postgres").connect(
            self.dsn, **{**self._arguments, **arguments}
        )
        self._clients.callback(connection.close)
        return connection

    @locked_property
    def server_version(self) -> str:
        """Such as ``"15.8"``."""
        [[version]] = self._class._admin.run("show server_version")
        return str(version).partition(" ")[0]

    # How ours reach it

    @property
    def _class(self) -> Self:
        """The class's handle."""
        return self._of_class or self

    def _uri(self, place: str) -> str:
        """The libpq URI, for a host and port."""
        user, password, database = (
            quote(part, safe="") for part in (self.username, self.password or "", self.database)
        )
        return f"postgresql://{user}:{password}@{place}/{database}"

    @locked_property
    def _admin(self) -> Admin:
        """The connection that makes and drops tests' state; outside any database it clones."""
        if self._clones:
            return self._outside
        admin = self._admin_of(self.database)
        self._clients.callback(admin.close)
        return admin

    @locked_property
    def _outside(self) -> Admin:
        """A connection to a database where no test works."""
        if self._whole is not None:
            return self._whole._outside
        admin = self._admin_of("template1" if self.database == "postgres" else "postgres")
        self._clients.callback(admin.close)
        return admin

    @locked_property
    def _sessions(self) -> Admin:
        """Has sessions that work in the class's database with a test's rights."""
        if not self._part:
            return self._admin
        admin = self.copy_with(_superuser_password="")._admin_of(self.database)
        self._clients.callback(admin.close)
        return admin

    def _admin_of(self, database: str) -> Admin:
        login: dict[str, Any] = {}
        if self._superuser_password:
            login = {"username": self._superuser, "password": self._superuser_password}

        def dsn(name: str) -> str:
            return self.copy_with(database=name, **login).dsn

        driver("psycopg", extra="postgres")
        from orchestrator.services.postgres.admin import Admin

        arguments = {"application_name": setup.APPLICATION, **self._arguments}
        return Admin(self, dsn, database=database, arguments=arguments)

    @property
    def _arguments(self) -> dict[str, Any]:
        """What our own clients tell libpq beside the URI: whom to trust, and to speak in text."""
        made = {"client_encoding": "utf8"}  # without, a database in SQL_ASCII has only bytes
        if self._certificates is not None:
            made |= {"sslmode": "verify-full", "sslrootcert": self._class._ca_file}
        return made

    @locked_property
    def _ca_file(self) -> str:
        assert self._certificates is not None  # noqa: S101 - for the type checker
        files = self._clients.enter_context(PemFiles())
        return files.write("ca.pem", self._certificates.authority)

    def _refuse_in_transaction(self, what: str) -> None:
        if self._transaction is not None:
            raise ServiceError(
                f"{self.alias}: with isolation='transaction' all of a test is one session's "
                f"transaction, and {what}. Use isolation='database' or 'schema'.",
                service=self.alias,
            )

    def _login(self, name: str, *, role: PostgresHandle, schema: str, database: str) -> Login:
        """A login that begins in a schema of a test; asked of the class's handle.

        Args:
            name: What it is called.
            role: The class's handle of the role that it becomes.
            schema: The test's; empty without.
            database: Where the sessions work.
        """
        return Login(
            name,
            role=role.username,
            path=", ".join(filter(None, [schema, role._search_path])),
            verifier=self._verifier,
            database=database,
            connects=bool(self._part),
            settings_of=role._settings_of,
        )

    @locked_property
    def _search_path(self) -> str:
        """Where sessions find unqualified names, without a schema of a test."""
        if not self._part:
            return search_path(self._admin)
        return search_path(
            self._admin, of=self._settings_of or self.username, database=self.database
        )

    @property
    def _settings_of(self) -> str:
        """Who has the settings of a role that others become, too; empty if that has them itself."""
        shared = self._part and self.username in self.roles
        return setup.settings_of(self.username) if shared else ""

    @locked_property
    def _verifier(self) -> str:
        return self._admin.verifier(self.running.password)


@dataclass(frozen=True)
class Login:
    """A role of a test's own to log in as; its sessions are another role's, with a search path.

    So no URL needs to tell a driver the search path.

    Attributes:
        name: What it is called, a plain name.
        role: Whose the sessions are, with all its settings and rights.
        path: The search path.
        verifier: Its password, as the server stores it.
        database: The only one where the search path is that.
        connects: Whether it needs a right to connect to that.
        settings_of: Whose settings it has; without, those of `role`.
    """

    name: str
    role: str
    path: str
    verifier: str
    database: str
    connects: bool = False
    settings_of: str = ""

    @contextlib.contextmanager
    def made(self, admin: Admin, *, before: str = "", after: str = "") -> Iterator[None]:
        """It is there while the block runs.

        Args:
            admin: Makes and drops it.
            before: What else is executed with that, in one round trip: before it is made,
            after: and before it is dropped.
        """
        admin.ask(before + self._make)
        try:
            yield
        finally:
            try:
                admin.ask(after + self._drop)
            except driver("psycopg.errors").DependentObjectsStillExist:
                # It owns something elsewhere: then it is one of the test's leftovers.
                admin.ask(f"{after}alter role {self.name} valid until 'infinity'")

    @property
    def _make(self) -> str:
        # Writing the password to the catalog spares 4096 rounds of hashing, 5 ms.
        name, base = self.name, literal(self.role)
        right = f"; grant connect, temporary on database {quoted(self.database)} to {name}"
        return f"""
            create role {name} login valid until '{LOGIN_UNTIL}' in role {quoted(self.role)};
            update pg_authid own set rolpassword = {literal(self.verifier)},
                rolsuper = base.rolsuper, rolreplication = base.rolreplication from pg_authid base
                where own.rolname = '{name}' and base.rolname = {base};
            insert into pg_db_role_setting select setdatabase, '{name}'::regrole, setconfig
                from pg_db_role_setting join pg_authid it on it.oid = setrole
                where rolname = {literal(self.settings_of or self.role)};
            select set_config('search_path', {literal(self.path)}, true);
            alter role {name} in database {quoted(self.database)} set search_path from current;
            alter role {name} set role = {base}{right if self.connects else ""}
        """  # noqa: S608 - quoted

    @property
    def _drop(self) -> str:
        return (
            f"reassign owned by {self.name} to {quoted(self.role)}; drop owned by {self.name}; "
            f"drop role {self.name}"
        )


def schema(
    admin: Admin, name: str, *, roles: Sequence[str], login: Login, owner: str = ""
) -> contextlib.AbstractContextManager[None]:
    """An empty schema with its login, which the class's roles may use, while the block runs."""
    usage = f"grant usage on schema {name} to {', '.join(map(quoted, roles))}; " if roles else ""
    whose = f" authorization {owner}" if owner else ""
    return login.made(
        admin,
        before=f"create schema if not exists {name}{whose}; {usage}",
        after=f"drop schema if exists {name} cascade; ",
    )


def search_path(admin: Admin, *, of: str = "", database: str = "") -> str:
    """Where sessions find unqualified names: those of `admin`, or of a role in a database."""
    [[path]] = admin.run(
        """
        select coalesce(
            (select substr(setting, 13) from pg_db_role_setting, unnest(setconfig) setting
             where starts_with(setting, 'search_path=')
               and setrole in (select oid from pg_roles where rolname = %(role)s)
               and setdatabase in (0, (select oid from pg_database where datname = %(database)s))
             order by setdatabase <> 0 desc limit 1),
            (select reset_val from pg_settings where name = 'search_path'))
        """,
        {"role": of, "database": database},
    )
    return str(path)
