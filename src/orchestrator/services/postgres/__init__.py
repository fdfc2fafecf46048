"""`Postgres`: a server of the class's own, with clean state for every test."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from orchestrator.errors import DeclarationError, EngineError
from orchestrator.services import faults, options
from orchestrator.services.hooks import SNAPSHOT_DATA, host_names
from orchestrator.services.once import OwnStack, driver, locked_property
from orchestrator.services.postgres import isolation, setup, snapshots
from orchestrator.services.postgres.handle import PostgresHandle, schema
from orchestrator.services.postgres.leftovers import Leftovers
from orchestrator.services.postgres.server import MEMORY, ServerState
from orchestrator.services.tls import Tls

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from orchestrator.services.hooks import Runtime, SnapshotKey


class Postgres(PostgresHandle):
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
        fingerprint: Files and folders that migrations depend on. A function is run again when one
            of them, or it, changes; without them once in each process. An Alembic ``Config`` and a
            ``MetaData`` need none for what is theirs.
        tls: Whether clients connect by TLS and no other way, with certificates made for the
            occasion. Drivers on libpq, asyncpg and pg8000 do so with the URL as it is; with
            ``sslmode="verify-full"`` and ``sslrootcert=db.ca_file`` they check who answers, too.
        durable: Whether data are on the disk and commits wait for it, as in production; tests need
            it seldom. Otherwise data are in memory, except with a limit of ``memory``, until `kill`
            or `restart` copy them to the disk.
    """

    _clone: isolation.Clone | None = options.private(None)
    _as: tuple[Self, str] | None = options.private(None)  # whose handle, for which role
    # These every bound handle has.
    _role_passwords: Mapping[str, str] = options.private(None)
    _server: ServerState = options.private(None)
    _logins: contextlib.ExitStack = options.private(None)  # those of a test
    # What a class's further databases are called, on a server that others use.
    _copies: Mapping[str, str] | None = options.private(None)

    # Hooks

    def required_modules(self) -> Mapping[str, str | None]:
        """What only `dsn` and the like need not: a test may have another driver."""
        modules: dict[str, str | None] = {}
        if self.isolation != "none" or self.roles or self.databases or self.extensions:
            modules["psycopg"] = "postgres"
        if self.isolation == "transaction" or self.migrate is not None:
            modules |= {"sqlalchemy": "postgres", "psycopg": "postgres"}
        return modules

    def server_env(self) -> Mapping[str, str]:
        """The official image's contract.

        Raises:
            ServiceError: The class's migration has failed in another class: why start a server?
        """
        handles = (self, *map(self.in_database, self.databases))
        if migrated := [handle for handle in handles if handle.migrate is not None]:
            setup.check_migrations(migrated, key=snapshots.migration_key)
        if not self._starts_itself:
            return super().server_env()
        statements = self._first_statements
        if self._from_snapshot:
            known = {self.username: self.password or "", **self._role_passwords}
            if self._superuser_password:
                known = {self._superuser: self._superuser_password}
            statements = [snapshots.set_password(*it) for it in known.items()]
        return {**super().server_env(), snapshots.STATEMENTS: snapshots.script(statements)}

    def prepare(self) -> None:
        """Make roles, databases and extensions, and run the migrations."""
        if self.scope != "run":
            self._make_all()
            return
        with contextlib.closing(self._outside) as admin:
            setup.unseal(admin, self.username, self.password or "")
            self._make_all()
            databases = [self.database, *self.databases]
            setup.seal(admin, self.username, databases, superuser=self._superuser, roles=self.roles)

    def _make_all(self) -> None:
        if not any((self.roles, self.databases, self.extensions, self.migrate)):
            return
        with contextlib.closing(self._admin_of(self.database)) as admin:
            setup.make_roles(admin, self._role_passwords)
            setup.make_databases(admin, self.databases)
        for handle in (self, *map(self.in_database, self.databases)):
            with contextlib.closing(self._admin_of(handle.database)) as admin:
                setup.make_extensions(admin, self.extensions, alias=self.alias)
            setup.migrate(handle, key=snapshots.migration_key)

    def snapshot_key(self, image: str) -> SnapshotKey | None:
        """All that the data depend on, of data in memory."""
        return snapshots.key_of(self, image, own=Postgres) if self._in_memory else None

    def snapshot(self) -> int:
        """The data directory, as it was at one moment."""
        running = self.running
        with contextlib.closing(self._admin_of(self.database)) as admin:
            admin.run("checkpoint")  # so that nothing has to be recovered
            take = ["sh", "-c", snapshots.TAKE, snapshots.PACK, MEMORY]
            done = running.engine.exec(running.container, take, user="0")
            if done.exit_code != 0:
                raise EngineError(f"The data of {self.alias} are not kept: {done.stderr.strip()}")
            held = snapshots.patterns([*self._role_passwords.values(), running.password])
            [(size, holds)] = admin.run(snapshots.HOLDS, [held, SNAPSHOT_DATA])
        if holds:
            raise EngineError(f"The data of {self.alias} are not kept: they hold a password")
        return int(size)

    def restored(self) -> None:
        """The passwords are this server's: the connection is the first test's."""
        if self.isolation != "none":
            self._admin.run("select")

    @contextlib.contextmanager
    def shared(self, name: str) -> Iterator[Self]:
        """Copies of the databases, and a role that owns them and can connect to no other."""
        further = {it: f"{name}_{number}" for number, it in enumerate(self.databases, start=2)}
        with OwnStack() as clients:
            whole = self.copy_with(_clients=clients, _related={})
            admin = whole._outside
            own = replace(self.running, password=options.random_password())
            copies = {self.database: name, **further}
            logins = clients.enter_context(contextlib.ExitStack())
            part = self.copy_with(
                _runtime=own,
                _clients=OwnStack(),
                _related={},
                _logins=logins,
                _part=name,
                _whole=whole,
                _copies=further,
                database=name,
                username=name,
                password=own.password,
            )
            with isolation.part(
                admin,
                name,
                inside=None if part._clones else part._admin,
                of=copies,
                user=self.username,
                roles=self.roles,
                durable=self.durable,
                password=admin.verifier(own.password),
            ):
                try:
                    yield part
                finally:
                    logins.close()

    @contextlib.contextmanager
    def isolated(self, test: str) -> Iterator[Self]:
        """A handle that sees a schema, a database or a transaction of the test's own."""
        with self._isolated(test) as handle:
            handle._claim()
            yield handle

    @property
    def _is_for_several(self) -> bool:
        return type(self).isolated is Postgres.isolated

    def _isolated_when_read(self, test: str) -> contextlib.AbstractContextManager[Self]:
        """A database is copied when the test reads the service; not before."""
        whole = type(self).isolated is Postgres.isolated
        return self._isolated(test) if whole else self.isolated(test)

    @contextlib.contextmanager
    def _isolated(self, test: str) -> Iterator[Self]:
        name = isolation.name_of(f"{test}{self._part.removeprefix('run')}")
        with OwnStack() as clients:
            handle = self._with_state(name, name, clients)
            try:
                yield handle
            finally:
                for it in (handle, *handle._related.values()):
                    if it._transaction is not None:
                        it._transaction.cut_off()

    def release(self) -> None:
        """Close what was opened with the class's handle."""
        self._clients.close()

    def secrets(self) -> Sequence[str]:
        """The passwords, as they are and as they stand in a URL."""
        declared = (self._as[0] if self._as else self)._class.password
        known = [declared, self._superuser_password, *(self._role_passwords or {}).values()]
        return [*super().secrets(), *(text for it in known for text in options.spellings(it))]

    def server_info(self) -> Mapping[str, object]:
        """The server's version, the settings that are not its defaults, and where the test is."""
        [[version, settings]] = self._class._admin.run("""
            select version(), coalesce(string_agg(name || '=' || current_setting(name), ' '), '')
            from pg_settings where source = 'command line' or sourcefile like '%%auto.conf'
        """)
        where = {"database": self.database, "schema": self.schema, "isolation": self.isolation}
        return {"server": version, "settings": settings, **where}

    # What a test uses besides

    def in_database(self, name: str) -> Self:
        """The same for another of the class's ``databases``, isolated like the first.

        Raises:
            DeclarationError: The class does not declare it.
        """
        if self._as is not None:
            handle, role = self._as
            return handle.in_database(name).as_role(role)
        self._check_declared("other database", name, self.databases)
        return self._relative(f"database {name}", lambda: self._in_database(name))

    def as_role(self, name: str) -> Self:
        """The same for one of the class's ``roles``.

        Raises:
            DeclarationError: The class does not declare it.
            ServiceError: With ``isolation="transaction"``, whose connections share one session.
        """
        self._check_declared("role", name, self.roles)
        self._refuse_in_transaction("a role needs sessions of its own")
        return self._relative(f"role {name}", lambda: self._for_role(name))

    @faults.of_own
    def kill(self, signal: str = "SIGKILL") -> None:
        """End the server as a crash does; what was committed is there after `restart`."""
        with self._server.saving(self, crash=signal == "SIGKILL"):
            super().kill(signal)

    @faults.of_own
    def restart(self) -> None:
        """Kill the server if it runs, start it, and return when it is ready again.

        Raises:
            ServiceError: It did not come back; or it had ended by itself, and with it went its
                data, which were in memory.
        """
        if not self._server.on_disk:
            self.kill()
        super().restart()

    # How it is bound, and what its handles share

    def _bound(self, runtime: Runtime, /, **changes: Any) -> Self:
        """The handle, with passwords in place."""
        hosts = (runtime.engine.host, "localhost", *host_names(runtime.alias))
        return super()._bound(
            runtime,
            _certificates=Tls.create(hosts) if self.tls else None,
            _role_passwords={role: options.random_password() for role in self.roles},
            _server=ServerState(on_disk=not self._in_memory),
            _related={},
            _clients=OwnStack(),
            _superuser_password=runtime.password if self.scope == "run" else "",
            **changes,
        )

    def _joined(self, runtime: Runtime, /) -> Self:
        """The handle for one more class; what it opens is closed with that class."""
        return self.copy_with(_runtime=runtime, _clients=OwnStack(), _related={})

    def _with_state(self, test: str, own: str, clients: OwnStack) -> Self:
        """The handle of a test for this one, the class's.

        Args:
            test: The test, as `name_of` tells it.
            own: What its schema or database is called.
            clients: Drops its state when it is closed.
        """
        changes: dict[str, Any] = {}
        state: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if self._clones:
            clone = isolation.Clone(self._clones_of_class, own)
            changes = {"database": own, "_clone": clone}
            state = self._clones_of_class.kept(clone)
        elif self.isolation == "schema":
            changes = {"_schema": own, "username": f"{test}_{next(self._server.logins)}"}
            changes["password"] = self.running.password
            login = self._login(changes["username"], role=self, schema=own, database=self.database)
            state = schema(self._admin, own, roles=self.roles, login=login, owner=self._part)
        elif self.isolation == "transaction":
            for module in ("sqlalchemy", "psycopg"):
                driver(module, extra="postgres")
            from orchestrator.services.postgres.transaction import SharedTransaction

            transaction = SharedTransaction(alias=self.alias, admin=self._sessions)
            changes = {"_transaction": transaction}
            state = contextlib.closing(transaction)
        if self.isolation != "none" and self._leftovers is not None:
            state = self._leftovers.cleared(state, own=own)
        changes["_logins"] = clients.enter_context(state)
        return self.copy_with(_test=test, _of_class=self, _related={}, _clients=clients, **changes)

    @locked_property
    def _clones_of_class(self) -> isolation.Clones:
        made = isolation.Clones(
            self._outside,
            of=self.database,
            durable=self.durable,
            alias=self.alias,
            server=self._server,
            owner=self._part,
        )
        self._clients.callback(made.close, drop=self.scope in ("process", "run"))
        return made

    def _claim(self) -> None:
        """A test that reads the service gets its database, which takes a copy."""
        if self._clone is not None:
            self._clone.claim()

    def _in_database(self, name: str) -> Self:
        of_class = self._class
        if of_class is self:
            migrate = self.databases[name] if isinstance(self.databases, Mapping) else None
            own = (self._copies or {}).get(name, name)
            return self.copy_with(database=own, migrate=migrate, init=(), _related={})
        other = of_class.in_database(name)
        number = list(self.databases).index(name) + 2
        own = f"{self._test}_{number}" if other._clones else self._test
        made = other._with_state(self._test, own, self._clients)
        made._claim()
        return made

    @locked_property
    def _leftovers(self) -> Leftovers | None:
        """What tests leave beside their state; the class's first database sees to the server."""
        further = (self._copies or {}).values() if self._part else self.databases
        server = None if self.database in further else self._outside
        inside = None if self._clones else self._admin
        if server is None and inside is None:
            return None
        shared = self._server
        return Leftovers(server, inside, live=shared.live, lock=shared.lock, part=self._part)

    def _for_role(self, name: str) -> Self:
        login, password = name, self._role_passwords[name]
        if self.schema != "public" or self._part:
            login = f"{self._test or self._part}_{next(self._server.logins)}"
            password, of_class = self.running.password, self._class
            schema = self.schema if self._schema != "public" else ""
            role = of_class._rights_of(name) if self._part else of_class.as_role(name)
            made = of_class._login(login, role=role, schema=schema, database=self.database)
            self._logins.enter_context(made.made(of_class._admin))
        return self.copy_with(username=login, password=password, _related={}, _as=(self, name))

    def _rights_of(self, role: str) -> Self:
        """The class's handle of a role in which nobody logs in."""
        return self._relative(
            f"rights of {role}", lambda: self.copy_with(username=role, _related={})
        )

    def _relative(self, key: str, make: Callable[[], Self]) -> Self:
        """One handle for each relative, so that its engine is one too."""
        with self._lock.held():
            if key not in self._related:
                self._related[key] = make()
        found: Self = self._related[key]
        return found

    def _check_declared(self, what: str, name: str, names: Collection[str]) -> None:
        if name not in names:
            raise DeclarationError(
                f"{self.alias} has no {what} {name!r}; it has "
                f"{', '.join(map(repr, names)) or 'none'}"
            )
