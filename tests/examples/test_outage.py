"""An outage: code that retries, against a Postgres that vanishes and comes back."""

import threading
import time
import unittest
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from orchestrator import Postgres, ServicesMixin

T = TypeVar("T")


def retrying(action: Callable[[], T], *, seconds: float) -> T:
    """The code under test: try again while the database is away, but not for ever."""
    deadline = time.monotonic() + seconds
    pause = 0.05
    while True:
        try:
            return action()
        except OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(pause)
            pause = min(2 * pause, 1.0)


def place_order(engine: Engine, name: str) -> None:
    """One transaction."""
    with engine.begin() as connection:
        connection.execute(text("insert into orders values (:name)"), {"name": name})


class OutageTest(ServicesMixin, unittest.TestCase):
    """What the shop does while its database is away: each test finds it running, and clean."""

    # What was committed is there after a crash, as only a server has it that writes it down.
    db = Postgres(durable=True)

    def setUp(self) -> None:
        """A table of orders."""
        with self.db.engine.begin() as connection:
            connection.execute(text("create table orders (name text)"))

    def orders(self) -> list[str]:
        """Every order there is."""
        with self.db.engine.connect() as connection:
            return list(connection.scalars(text("select name from orders order by name")))

    def test_an_order_waits_for_the_database_to_come_back(self) -> None:
        """The database crashes; it is started again while the shop retries. Nothing is lost."""
        place_order(self.db.engine, "before")
        self.db.kill()
        back = threading.Thread(target=self.db.restart)
        back.start()
        self.addCleanup(back.join)
        retrying(lambda: place_order(self.db.engine, "after"), seconds=60)
        self.assertEqual(["after", "before"], self.orders())

    def test_a_shop_does_not_wait_for_ever(self) -> None:
        """A database that stays away is an error in the end."""
        self.db.kill()
        self.addCleanup(self.db.restart)
        with self.assertRaises(OperationalError):
            retrying(lambda: place_order(self.db.engine, "never"), seconds=0.5)

    def test_a_frozen_database_meets_the_shops_timeout(self) -> None:
        """A server that accepts and says nothing is worse than none; a timeout ends the wait."""
        import psycopg

        with self.db.paused(), self.assertRaises(psycopg.OperationalError):
            psycopg.connect(self.db.dsn, connect_timeout=2)
        place_order(self.db.engine, "after")
        self.assertEqual(["after"], self.orders())
