"""What a class's server gets before the first test: roles, databases, extensions, migrations."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from copy import copy
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from orchestrator.errors import DeclarationError, OrchestratorError, ServiceError
from orchestrator.images.failures import failed_before, has_failures, note_failure
from orchestrator.services.once import ProcessLock, driver
from orchestrator.services.options import masked
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import sqlalchemy
    import sqlalchemy.ext.asyncio

    from orchestrator.services.postgres.admin import Admin

APPLICATION: Final = "orchestrator"
"""The name of our own sessions, which nobody ends."""
LOGIN_UNTIL: Final = "9999-12-31 UTC"
"""How long the logins of tests are valid, and nobody else's."""
_one_at_a_time: Final = ProcessLock()  # Alembic keeps what env.py sees in module globals
_LIBRARIES: Final = frozenset(
    ("orchestrator", "alembic", "sqlalchemy", "psycopg", "importlib", "contextlib", "asyncio")
)
_ANY_TABLE: Final = "select exists (select from pg_class where oid >= 16384 and relkind = 'r')"


def quoted(name: str) -> str:
    """A name as SQL wants it where names stand."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL wants it where parameters are not allowed."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"e'{escaped}'"


# A server that a run shares: its superuser is nobody's, so that what init files and migrations make
# has an owner that can be replaced in each class's copy.

_NEEDS_SUPERUSER: Final = """
    select format('alter event trigger %I', evtname) from pg_event_trigger where evtowner = it
    union all select format('alter foreign data wrapper %I', fdwname)
        from pg_foreign_data_wrapper where fdwowner = it
    union all select format('alter publication %I', pubname)
        from pg_publication where pubowner = it and puballtables
"""


def before_init(user: str, *, database: str, superuser: str) -> Sequence[str]:
    """What comes first: what others make is of the declared user, a superuser until `seal`."""
    return (
        f"create role {quoted(user)} superuser",
        f"alter role {superuser} in database {quoted(database)} set role = {literal(user)}",
    )


def unseal(admin: Admin, user: str, password: str) -> None:
    """Let the declared user log in, for migrations."""
    admin.run(f"alter role {quoted(user)} login password {literal(admin.verifier(password))}")


def settings_of(role: str) -> str:
    """Who has a declared role's settings as they were: whoever becomes it can change its own."""
    return f"orchestrator_{hashlib.sha256(role.encode()).hexdigest()[:16]}"


def seal(
    admin: Admin,
    user: str,
    databases: Sequence[str],
    *,
    superuser: str,
    roles: Sequence[str],
) -> None:
    """Nobody but the superuser shall connect, and no copy belong to the declared user."""
    for role in roles:
        admin.run(
            f"""
            create role {settings_of(role)};
            insert into pg_db_role_setting
                select setdatabase, '{settings_of(role)}'::regrole, setconfig
                from pg_db_role_setting where setrole = {literal(quoted(role))}::regrole
            """  # noqa: S608 - quoted
        )
    whose = _NEEDS_SUPERUSER.replace("= it", f"= {literal(quoted(user))}::regrole")
    for name in databases:
        with contextlib.closing(admin.elsewhere(name)) as inside:
            for [statement] in inside.run(whose):
                inside.run(f"{statement} owner to {superuser}")
    admin.run(f"alter role {superuser} in database {quoted(databases[0])} reset role")
    owned = admin.run(
        "select datname, datdba::regrole::text from pg_database where datname <> 'template0'"
    )
    for name, owner in owned:
        admin.run(f"revoke connect on database {quoted(name)} from public")
        if owner != superuser:
            admin.run(f"alter database {quoted(name)} owner to {superuser}")
    admin.run(f"alter role {quoted(user)} nologin nosuperuser password null")


def make_roles(admin: Admin, passwords: Mapping[str, str]) -> None:
    """Make login roles, or give those that an init file has made their passwords."""
    for role, password in passwords.items():
        exists = admin.run("select from pg_roles where rolname = %s", [role])
        verifier = admin.verifier(password)  # the statement may be logged
        admin.run(
            f"{'alter' if exists else 'create'} role {quoted(role)} login "
            f"password {literal(verifier)}"
        )


def make_databases(admin: Admin, names: Iterable[str]) -> None:
    """Make those that an init file has not made."""
    for name in names:
        if not admin.run("select from pg_database where datname = %s", [name]):
            admin.run(f"create database {quoted(name)}")


def make_extensions(admin: Admin, names: Iterable[str], *, alias: str) -> None:
    """Make extensions in the database that `admin` is connected to.

    Raises:
        ServiceError: The server has no such extension; the message has those of the image.
    """
    errors = driver("psycopg.errors", extra="postgres")
    for name in names:
        try:
            admin.run(f"create extension if not exists {quoted(name)} cascade")
        except errors.Error as error:
            found = admin.run("select name from pg_available_extensions order by 1")
            raise ServiceError(
                f"{alias}: the extension {name!r} cannot be created: "
                f"{str(error).partition(chr(10))[0]}. "
                f"The image has {', '.join(name for [name] in found)}.",
                service=alias,
            ) from error


def check_migration(migrate: Any, *, option: str) -> None:
    """Raise DeclarationError for something that is no migration."""
    if migrate is None or callable(migrate) or is_alembic(migrate) or is_metadata(migrate):
        return
    raise DeclarationError(
        f"Postgres({option}={migrate!r}) cannot be used: expected a function of a SQLAlchemy "
        "engine, a sqlalchemy.MetaData, or an alembic.config.Config"
    )


class _Migrated(Protocol):
    """A handle of a database, as far as its migration goes."""

    @property
    def alias(self) -> str: ...
    @property
    def migrate(self) -> Any: ...
    @property
    def engine(self) -> sqlalchemy.Engine: ...
    @property
    def async_engine(self) -> sqlalchemy.ext.asyncio.AsyncEngine: ...
    def secrets(self) -> Sequence[str]: ...


Handle = TypeVar("Handle", bound=_Migrated)


def migrate(handle: Handle, *, key: Callable[[Handle], str | None]) -> None:
    """Migrate a database, by its handle of the class: by a function, a MetaData or Alembic.

    Logging is as before then: Alembic's own env.py disables all loggers that there are.

    Args:
        handle: Of the database.
        key: Under what the run is told that it failed.

    Raises:
        ServiceError: The migration raised.
    """
    import asyncio  # not at import: declaring must be cheap
    import inspect

    migration: Any = handle.migrate
    try:
        with _one_at_a_time.held(), _logging_kept():
            if is_alembic(migration):
                _upgrade(migration, handle.engine)
            elif is_metadata(migration):
                migration.create_all(handle.engine)
            elif inspect.iscoroutinefunction(migration):
                asyncio.run(migration(handle.async_engine))
            elif migration is not None:
                migration(handle.engine)
    except OrchestratorError:
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {masked(str(error), handle.secrets())}"
        kind = type(error).__name__
        # OperationalError may be the server's fault.
        if kind != "OperationalError" and (known := key(handle)) is not None:
            note_failure(known, kind, told, settings=Settings.from_environment())
        _keep_own_frames(error)
        raise ServiceError(
            f"{handle.alias}: the migration failed: {told}", service=handle.alias
        ) from error


def _keep_own_frames(error: BaseException | None) -> None:
    """Leave of the tracebacks what is the user's: two screens of libraries show where it is not."""
    while error is not None:
        frames = []
        trace = error.__traceback__
        while trace is not None:
            if str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] not in _LIBRARIES:
                frames.append(trace)
            trace = trace.tb_next
        for kept in reversed(frames):
            trace = TracebackType(trace, kept.tb_frame, kept.tb_lasti, kept.tb_lineno)
        error.__traceback__ = trace
        error = error.__cause__ or error.__context__


def check_migrations(handles: Iterable[Handle], *, key: Callable[[Handle], str | None]) -> None:
    """Raise ServiceError for a migration that has failed in this run, in another class."""
    settings = Settings.from_environment()
    if not has_failures(settings=settings):
        return  # a key takes its time
    for handle in handles:
        known = key(handle)
        if known is not None and (before := failed_before(known, settings=settings)):
            raise ServiceError(
                f"{handle.alias}: the migration failed in a class before, so it is not run "
                f"again: {before[1]}",
                service=handle.alias,
            )


@contextlib.contextmanager
def _logging_kept() -> Iterator[None]:
    """Leave the process's logging as it was: the env.py of `alembic init` disables every logger."""
    # fileConfig closes, and forgets, every handler that there is; so there is none.
    handlers, names = vars(logging)["_handlerList"], vars(logging)["_handlers"]
    kept_handlers, kept_names = handlers[:], dict(names)
    kept = {logger: _state(logger) for logger in _loggers()}
    new = _state(logging.getLogger("orchestrator.never configured"))
    handlers.clear()
    try:
        yield
    finally:
        for logger in _loggers():
            vars(logger).update(kept.get(logger) or {**new, "handlers": [], "filters": []})
        logging.root.setLevel(logging.root.level)  # forgets who was enabled
        logging.shutdown()  # the handlers of the migration
        handlers[:] = kept_handlers
        names.update(kept_names)


def _loggers() -> list[logging.Logger]:
    made = logging.root.manager.loggerDict.values()
    return [logging.root, *(it for it in made if isinstance(it, logging.Logger))]


def _state(logger: logging.Logger) -> dict[str, Any]:
    names = ("level", "propagate", "disabled", "handlers", "filters")
    return {name: copy(vars(logger)[name]) for name in names}


def is_alembic(migration: Any) -> bool:
    """Whether a migration is an Alembic config."""
    return hasattr(migration, "set_main_option")


def is_metadata(migration: Any) -> bool:
    """Whether a migration is a SQLAlchemy MetaData."""
    return hasattr(migration, "create_all") and hasattr(migration, "sorted_tables")


def _upgrade(config: Any, engine: sqlalchemy.Engine) -> None:
    with _pointed_at(config, engine):
        driver("alembic.command").upgrade(config, "head")
    with engine.connect() as connection:
        migrated = connection.exec_driver_sql(_ANY_TABLE).scalar()
    if not migrated:
        raise LookupError(
            f"Alembic ran, but made nothing in {engine.url.database!r}, not even the table of its "
            "versions: its env.py has its URL from somewhere else. Let it use "
            "config.get_main_option('sqlalchemy.url') or config.attributes['connection']."
        )


@contextlib.contextmanager
def _pointed_at(config: Any, engine: sqlalchemy.Engine) -> Iterator[None]:
    """Lend the user's config our database.

    Its env.py reads ``sqlalchemy.url``, or takes the connection from
    ``config.attributes["connection"]`` as Alembic's cookbook does.
    """
    previous = config.get_main_option("sqlalchemy.url")
    url = engine.url.render_as_string(hide_password=False)
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))  # ConfigParser's escape
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        try:
            yield
        finally:
            del config.attributes["connection"]
            if previous is None:
                config.remove_main_option("sqlalchemy.url")
            else:
                config.set_main_option("sqlalchemy.url", previous.replace("%", "%%"))
