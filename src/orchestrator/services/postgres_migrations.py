"""Migrations: a function of an engine, or an Alembic config, run once for the class."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import DeclarationError, OrchestratorError, ServiceError
from orchestrator.services.drivers import driver
from orchestrator.services.once import ProcessLock
from orchestrator.services.secret import masked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.services.postgres import Postgres

_one_at_a_time: Final = ProcessLock()  # Alembic keeps what env.py sees in module globals
_ANY_TABLE: Final = "select exists (select from pg_class where oid >= 16384 and relkind = 'r')"


def check(migrate: Any, *, option: str) -> None:
    """Raise DeclarationError for something that is no migration."""
    if migrate is None or callable(migrate) or _is_alembic(migrate) or _is_metadata(migrate):
        return
    raise DeclarationError(
        f"Postgres({option}={migrate!r}) cannot be used: expected a function of a SQLAlchemy "
        "engine, a sqlalchemy.MetaData, or an alembic.config.Config"
    )


def run(migrate: Any, *, service: Postgres) -> None:
    """Migrate the class's database.

    Raises:
        ServiceError: The migration raised; its error is the cause.
    """
    import asyncio  # not at import: declaring must be cheap
    import inspect

    try:
        if _is_alembic(migrate):
            _upgrade(migrate, service)
        elif _is_metadata(migrate):
            migrate.create_all(service.engine)
        elif inspect.iscoroutinefunction(migrate):
            asyncio.run(migrate(service.async_engine))
        else:
            migrate(service.engine)
    except OrchestratorError:
        raise
    except Exception as error:
        raise ServiceError(
            f"{service.alias}: the migration failed: {type(error).__name__}: "
            f"{masked(str(error), service.secrets())}",
            service=service.alias,
        ) from error


def _is_alembic(migrate: Any) -> bool:
    return hasattr(migrate, "set_main_option")


def _is_metadata(migrate: Any) -> bool:
    return hasattr(migrate, "create_all") and hasattr(migrate, "sorted_tables")


def _upgrade(config: Any, service: Postgres) -> None:
    with _one_at_a_time.held(), _pointed_at(config, service):
        driver("alembic.command").upgrade(config, "head")
    with service.engine.connect() as connection:
        migrated = connection.exec_driver_sql(_ANY_TABLE).scalar()
    if not migrated:
        raise ServiceError(
            f"{service.alias}: Alembic ran, but made nothing in {service.database!r}, not even the "
            "table of its versions: its env.py has its URL from somewhere else. Let it use "
            "config.get_main_option('sqlalchemy.url') or config.attributes['connection'].",
            service=service.alias,
        )


@contextlib.contextmanager
def _pointed_at(config: Any, service: Postgres) -> Iterator[None]:
    """Lend the user's config our database.

    Its env.py reads ``sqlalchemy.url``, or takes the connection from
    ``config.attributes["connection"]`` as Alembic's cookbook does.
    """
    previous = config.get_main_option("sqlalchemy.url")
    url = service.sqlalchemy_url.render_as_string(hide_password=False)
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))  # ConfigParser's escape
    with service.engine.begin() as connection:
        config.attributes["connection"] = connection
        try:
            yield
        finally:
            del config.attributes["connection"]
            if previous is None:
                config.remove_main_option("sqlalchemy.url")
            else:
                config.set_main_option("sqlalchemy.url", previous.replace("%", "%%"))
