"""How a test connects: URLs, SQLAlchemy and psycopg, each of which ends in the test's own state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from orchestrator.services.drivers import driver

if TYPE_CHECKING:
    import psycopg
    import sqlalchemy
    import sqlalchemy.ext.asyncio

    from orchestrator.services.postgres import Postgres


def uri(service: Postgres, address: str) -> str:
    """The libpq URI of a handle."""
    user, password, database = (
        quote(part or "", safe="")
        for part in (service.username, service.password, service.database)
    )
    settings = session_settings(service)
    query = f"?options={quote(settings, safe='')}" if settings else ""
    return f"postgresql://{user}:{password}@{address}/{database}{query}"


def sqlalchemy_url(service: Postgres) -> sqlalchemy.URL:
    """The URL of a handle for SQLAlchemy, with the psycopg driver."""
    settings = session_settings(service)
    url: sqlalchemy.URL = driver("sqlalchemy", extra="postgres").URL.create(
        "postgresql+psycopg",
        username=service.username,
        password=service.password,
        host=service.host,
        port=service.port,
        database=service.database,
        query={"options": settings} if settings else {},
    )
    return url


def session_settings(service: Postgres) -> str:
    """What a session of the test begins with, and comes back to on ``RESET ALL``.

    The application's name tells whose sessions are left after the test.
    """
    if not service.test:
        return ""
    path = str(service.settings.get("search_path", "public")).replace(" ", "")
    own = "" if service.schema == "public" else f"-csearch_path={service.schema},{path} "
    return f"{own}-capplication_name={service.test}"


def connect(service: Postgres, **arguments: Any) -> psycopg.Connection[tuple[Any, ...]]:
    """A psycopg connection that is closed after the test."""
    connection: psycopg.Connection[tuple[Any, ...]]
    if service.shared:
        connection = service.shared.connect(**arguments)
    else:
        connection = driver("psycopg", extra="postgres").connect(service.dsn, **arguments)
    service.clients.callback(connection.close)
    return connection


def engine(service: Postgres) -> sqlalchemy.Engine:
    """A SQLAlchemy engine that is disposed of after the test.

    The class's own does not pool: a connection kept open would forbid cloning its database.
    """
    driver("psycopg", extra="postgres")
    module = driver("sqlalchemy", extra="postgres")
    how: dict[str, Any] = {} if service.test else {"poolclass": module.NullPool}
    if service.shared:
        how["creator"] = service.shared.connect
    made: sqlalchemy.Engine = module.create_engine(service.sqlalchemy_url, **how)
    service.clients.callback(made.dispose)
    return made


def async_engine(service: Postgres) -> sqlalchemy.ext.asyncio.AsyncEngine:
    """A SQLAlchemy engine for asyncio.

    After the test its event loop is gone, and with it every way to close a connection of the pool
    politely. So they are closed under it.
    """
    psycopg = driver("psycopg", extra="postgres")
    module = driver("sqlalchemy.ext.asyncio", extra="postgres")
    how: dict[str, Any] = {}
    if service.shared:
        how["async_creator"] = service.shared.connect_async
    elif service.test:

        async def opened() -> psycopg.AsyncConnection[Any]:  # type: ignore[name-defined]
            connection = await psycopg.AsyncConnection.connect(service.dsn)
            service.clients.callback(connection.pgconn.finish)
            return connection

        how["async_creator"] = opened
    else:
        how["poolclass"] = driver("sqlalchemy", extra="postgres").NullPool
    made: sqlalchemy.ext.asyncio.AsyncEngine = module.create_async_engine(
        service.sqlalchemy_url, **how
    )
    return made
