"""Tests as functions."""

import pytest
from conftest import orders
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError


@pytest.mark.parametrize("item", ["tea", "cake"])
def test_an_order_is_the_first(shop, item):
    """What the other test ordered is not here."""
    with shop.db.engine.begin() as connection:
        connection.execute(insert(orders).values(item=item))
        assert connection.execute(select(orders)).all() == [(1, item)]
    assert shop.cache.client.incr("orders") == 1


def test_an_item_is_ordered_once(shop):
    """The database keeps the rule."""
    with shop.db.engine.begin() as connection:
        connection.execute(insert(orders).values(item="tea"))
        with pytest.raises(IntegrityError):
            connection.execute(insert(orders).values(item="tea"))
