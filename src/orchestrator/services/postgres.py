"""`Postgres`: a server of the class's own; every test gets a schema or a database."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self
from urllib.parse import quote

from orchestrator.errors import DeclarationError
from orchestrator.probes import Call, NotReadyError, connect
from orchestrator.services import options, postgres_isolation, postgres_migrations
from orchestrator.services.drivers import driver
from orchestrator.services.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import psycopg
    import sqlalchemy
    import sqlalchemy.ext.asyncio

    from orchestrator.probes import Probe, Target
    from orchestrator.services.runtime import Runtime

Isolation = Literal["schema", "database", "none"]

INIT_FOLDER: Final = "/docker-entrypoint-initdb.d"
INIT_SUFFIXES: Final = (".sql", ".sql.gz", ".sh")
# What a crash of the machine could lose is of no worth to a test; killing the server loses nothing.
_NOT_DURABLE: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_PROTOCOL_3: Final = 196608


class Postgres(Service):
    """A PostgreSQL server.

    Attributes:
        database: The class's database.
        username: Its superuser.
        password: The superuser's password; a random one without.
        settings: More of postgresql.conf, such as ``{"wal_level": "logical"}``.
        init: SQL and shell files (``.sql``, ``.sql.gz``, ``.sh``) the server runs at first start.
        isolation: What every test gets: a ``"schema"`` of its own, a ``"database"`` cloned from
            the class's, or ``"none"``. With ``migrate`` or ``init``, ``"schema"`` becomes a clone
            too: a schema cannot carry what they made.
        migrate: Run once for the class: a function of a SQLAlchemy engine (such as
            ``Base.metadata.create_all``), or an Alembic ``Config``, upgraded to ``head``.
        durable: Whether commits wait for the disk, as in production; tests need it seldom.
    """

    lock_entry: ClassVar[str] = "postgres"
    container_port: ClassVar[int] = 5432

    database: str = "test"
    username: str = "test"
    password: str | None = field(default=None, repr=False)
    settings: Mapping[str, str] = field(default_factory=dict)
    init: Sequence[str | Path] = ()
    isolation: Isolation = "schema"
    migrate: Callable[[sqlalchemy.Engine], object] | Any = None
    durable: bool = False
    _schema: str = options.private("public")
    _clients: contextlib.ExitStack | None = options.private(None)

    def check_options(self) -> None:
        """Raise DeclarationError for a value that cannot work."""
        options.choice(self, "isolation", self.isolation, ("schema", "database", "none"))
        options.check_environment(self, "settings", self.settings)
        options.check_password(self, self.password)
        for option in ("database", "username"):
            options.check_identifier(self, option, getattr(self, option))
        postgres_migrations.check(self.migrate)
        if isinstance(self.init, (str, bytes, Path)):
            raise DeclarationError(
                f"Postgres(init={self.init!r}) cannot be used: expected a list of files"
            )
        for file in self.init:
            if not str(file).endswith(INIT_SUFFIXES):
                raise DeclarationError(
                    f"Postgres(init=…) cannot run {str(file)!r}: expected a name that ends in "
                    f"{', '.join(INIT_SUFFIXES)}"
                )

    def bound(self, runtime: Runtime, /, **changes: Any) -> Self:
        """The handle, with a password in place."""
        password = self.password or runtime.password
        return super().bound(runtime, **{"password": password, **changes})

    # The server

    def server_capabilities(self) -> Sequence[str]:
        """What the entry point needs to give the data to the server's user, and to become it."""
        return ("CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID")

    def server_env(self) -> Mapping[str, str]:
        """The official image's contract."""
        return {
            "POSTGRES_USER": self.username,
            "POSTGRES_PASSWORD": self.password or "",
            "POSTGRES_DB": self.database,
            **({} if self.durable else {"POSTGRES_INITDB_ARGS": "--no-sync"}),
        }

    def server_command(self) -> Sequence[str]:
        """Settings as arguments."""
        settings = {**({} if self.durable else _NOT_DURABLE), **self.settings}
        return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]

    def server_files(self) -> Mapping[str, bytes]:
        """The init files, numbered so that they run in the order given."""
        return {
            f"{INIT_FOLDER}/{number:03}-{Path(file).name}": options.read_file(self, "init", file)
            for number, file in enumerate(self.init)
        }

    def readiness(self) -> Probe:
        """It asks for a password over TCP; the temporary server of the first start cannot."""
        return Call(_asks_for_password)

    def prepare(self) -> None:
        """Run the migrations in the class's database."""
        if self.migrate is not None:
            postgres_migrations.run(self.migrate, service=self)

    @contextlib.contextmanager
    def isolated(self, test: str) -> Iterator[Self]:
        """A schema or a database of the test's own, and a handle that sees nothing else."""
        del test  # names on the server are short and random; a test's is neither
        with contextlib.ExitStack() as clients:
            changes = clients.enter_context(postgres_isolation.isolation(self))
            handle = self.copy_with(_clients=clients, **changes)
            clients.callback(handle.release)
            yield handle

    def release(self) -> None:
        """Close the engine's pooled connections, and the one that isolates tests."""
        if "engine" in self.__dict__:
            self.engine.dispose()
        if "admin" in self.__dict__:
            self.admin.close()

    def secrets(self) -> Sequence[str]:
        """The password, as it is and as it stands in a URL."""
        return options.spellings(self.password)

    def server_info(self) -> Mapping[str, object]:
        """The server's version and the settings that are not its defaults."""
        with self.connect() as connection:
            [version] = connection.execute("select version()").fetchone() or ("",)
        return {"server": version, "database": self.database, "schema": self.schema}

    # What a test uses

    @property
    def schema(self) -> str:
        """The schema in which unqualified names are created."""
        return self._schema

    @property
    def dsn(self) -> str:
        """The libpq URI, search_path included: for psycopg, psql and asyncpg."""
        address = f"{self.host}:{self.port}"
        return self._uri(address)

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
        """The URL for SQLAlchemy, with the psycopg driver."""
        url: sqlalchemy.URL = driver("sqlalchemy", extra="postgres").URL.create(
            "postgresql+psycopg",
            username=self.username,
            password=self.password,
            host=self.host,
            port=self.port,
            database=self.database,
            query={"options": self._options} if self._options else {},
        )
        return url

    @cached_property
    def engine(self) -> sqlalchemy.Engine:
        """A SQLAlchemy engine; each of its connections has this test's search_path.

        A test's engine pools, and is disposed of after the test. The class's own (in setUpClass)
        does not pool: a connection kept open would forbid cloning the database.
        """
        driver("psycopg", extra="postgres")
        module = driver("sqlalchemy", extra="postgres")
        pool = {} if self._clients else {"poolclass": module.NullPool}
        engine: sqlalchemy.Engine = module.create_engine(self.sqlalchemy_url, **pool)
        return engine

    @cached_property
    def async_engine(self) -> sqlalchemy.ext.asyncio.AsyncEngine:
        """An asyncio engine that does not pool: a pool would outlive the test's event loop."""
        module = driver("sqlalchemy.ext.asyncio", extra="postgres")
        null_pool = driver("sqlalchemy", extra="postgres").NullPool
        engine: sqlalchemy.ext.asyncio.AsyncEngine = module.create_async_engine(
            self.sqlalchemy_url, poolclass=null_pool
        )
        return engine

    def connect(self, **arguments: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """A new psycopg connection; it is closed after the test, if the test did not.

        Args:
            arguments: Passed on to ``psycopg.connect``, such as ``autocommit=True``.
        """
        connection: psycopg.Connection[tuple[Any, ...]] = driver(
            "psycopg", extra="postgres"
        ).connect(self.dsn, **arguments)
        if self._clients:
            self._clients.callback(connection.close)
        return connection

    @cached_property
    def server_version(self) -> str:
        """Such as ``"15.8"``."""
        with self.connect() as connection:
            text = connection.info.parameter_status("server_version") or ""
        return text.partition(" ")[0]

    @cached_property
    def admin(self) -> psycopg.Connection[tuple[Any, ...]]:
        """The connection that makes and drops tests' state; outside any database it clones."""
        database = self.database
        if self.clones:
            database = "template1" if self.database == "postgres" else "postgres"
        outside = self.copy_with(database=database)
        return outside.connect(autocommit=True, options="-clock_timeout=10s")

    @property
    def clones(self) -> bool:
        """Whether tests get a clone of the database."""
        carries = self.migrate is not None or bool(self.init)
        return self.isolation == "database" or (self.isolation == "schema" and carries)

    @property
    def _options(self) -> str:
        return "" if self._schema == "public" else f"-csearch_path={self._schema},public"

    def _uri(self, address: str) -> str:
        user, password, database = (
            quote(part or "", safe="") for part in (self.username, self.password, self.database)
        )
        query = f"?options={quote(self._options, safe='')}" if self._options else ""
        return f"postgresql://{user}:{password}@{address}/{database}{query}"


def _asks_for_password(target: Target) -> None:
    """Speak the first words of the protocol; no driver and no password are needed for them."""
    with connect(target) as connection:
        user = b"user\0orchestrator\0\0"
        connection.sendall(struct.pack("!ii", 8 + len(user), _PROTOCOL_3) + user)
        answer = connection.recv(1024)
    if answer[:1] != b"R":  # R asks for authentication; E says "the database is starting up"
        words = answer[5:].replace(b"\0", b" ").decode(errors="replace").strip()
        raise NotReadyError(words or "the connection was closed")
