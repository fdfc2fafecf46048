"""Migrations: a function of an engine, or an Alembic config, run once for the class."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import DeclarationError, ServiceError
from orchestrator.services.drivers import driver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.services.postgres import Postgres

_one_at_a_time: Final = threading.Lock()  # Alembic keeps what env.py sees in module globals


def check(migrate: Any) -> None:
    """Raise DeclarationError for something that is no migration."""
    if migrate is not None and not callable(migrate) and not _is_alembic(migrate):
        raise DeclarationError(
            f"Postgres(migrate={migrate!r}) cannot be used: expected a function of a SQLAlchemy "
            "engine, or an alembic.config.Config"
        )


def run(migrate: Any, *, service: Postgres) -> None:
    """Migrate the class's database.

    Raises:
        ServiceError: The migration raised; its error is the cause.
    """
    try:
        if _is_alembic(migrate):
            with _one_at_a_time, _pointed_at(migrate, service):
                driver("alembic.command", extra="postgres").upgrade(migrate, "head")
        else:
            migrate(service.engine)
    except Exception as error:
        raise ServiceError(
            f"{service.alias}: the migration failed: {type(error).__name__}: "
            f"{service.masked(str(error))}",
            service=service.alias,
        ) from error


def _is_alembic(migrate: Any) -> bool:
    return hasattr(migrate, "set_main_option")


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
