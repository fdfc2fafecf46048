"""One round trip to a server, the same for every variant."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import redis
    import sqlalchemy


def postgres(engine: sqlalchemy.Engine) -> None:
    """Make a table, write a row, read it."""
    from sqlalchemy import text  # as late as a variant may: drivers are part of what it costs

    with engine.begin() as connection:
        connection.execute(text("create table paid(amount integer)"))
        connection.execute(text("insert into paid values (10)"))
        assert connection.execute(text("select amount from paid")).scalar_one() == 10


def cache(client: redis.Redis) -> None:
    """Write a key, read it."""
    client.set("paid", "10")
    assert client.get("paid") == b"10"
