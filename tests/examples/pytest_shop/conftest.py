"""Fixtures: servers for the whole session, clean state for each test."""

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text

from orchestrator import Postgres, Redis, Services

metadata = MetaData()
orders = Table(
    "orders", metadata, Column("id", Integer, primary_key=True), Column("item", Text, unique=True)
)


class Shop(Services):
    """What the shop runs on."""

    db = Postgres(migrate=metadata.create_all)
    cache = Redis()


@pytest.fixture(scope="session")
def servers():
    """They start once; with pytest-xdist, once for each worker."""
    with Shop() as shop:
        yield shop


@pytest.fixture
def shop(servers, request):
    """An empty database with the tables, and an empty Redis."""
    with servers.isolated(request.node.nodeid) as shop:
        yield shop
