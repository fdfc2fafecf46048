"""How a test connects: URLs and SQLAlchemy's engines, which lead to the test's own state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from orchestrator.services.once import driver

if TYPE_CHECKING:
    import contextlib

    import psycopg
    import sqlalchemy
    import sqlalchemy.ext.asyncio


@dataclass(frozen=True, kw_only=True)
class Login:
    """What a connection needs to know.

    Attributes:
        session: What a session begins with, and comes back to on ``RESET ALL``, as libpq's
            ``options``.
    """

    host: str
    port: int
    username: str
    password: str
    database: str
    session: str

    def uri(self, address: str) -> str:
        """The libpq URI, for a host and port."""
        user, password, database = (
            quote(part, safe="") for part in (self.username, self.password, self.database)
        )
        query = f"?options={quote(self.session, safe='')}" if self.session else ""
        return f"postgresql://{user}:{password}@{address}/{database}{query}"

    def sqlalchemy_url(self) -> sqlalchemy.URL:
        """The URL for SQLAlchemy, with the psycopg driver."""
        url: sqlalchemy.URL = driver("sqlalchemy", extra="postgres").URL.create(
            "postgresql+psycopg",
            username=self.username,
            password=self.password,
            host=self.host,
            port=self.port,
            database=self.database,
            query={"options": self.session} if self.session else {},
        )
        return url


def make_engine(url: sqlalchemy.URL, *, pooled: bool) -> sqlalchemy.Engine:
    """A SQLAlchemy engine; without a pool, it keeps no connection open that forbids cloning."""
    driver("psycopg", extra="postgres")
    module = driver("sqlalchemy", extra="postgres")
    how: dict[str, Any] = {} if pooled else {"poolclass": module.NullPool}
    made: sqlalchemy.Engine = module.create_engine(url, **how)
    return made


def make_async_engine(
    url: sqlalchemy.URL, *, dsn: str, clients: contextlib.ExitStack | None
) -> sqlalchemy.ext.asyncio.AsyncEngine:
    """A SQLAlchemy engine for asyncio; without `clients`, it has no pool.

    After the test its event loop is gone, and with it every way to close a connection of the pool
    politely. So they are closed under it.
    """
    psycopg = driver("psycopg", extra="postgres")
    module = driver("sqlalchemy.ext.asyncio", extra="postgres")
    how: dict[str, Any] = {"poolclass": driver("sqlalchemy", extra="postgres").NullPool}
    if clients is not None:

        async def opened() -> psycopg.AsyncConnection[Any]:  # type: ignore[name-defined]
            connection = await psycopg.AsyncConnection.connect(dsn)
            clients.callback(connection.pgconn.finish)
            return connection

        how = {"async_creator": opened}
    made: sqlalchemy.ext.asyncio.AsyncEngine = module.create_async_engine(url, **how)
    return made
