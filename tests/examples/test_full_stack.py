"""The whole stack: an order service that uses Postgres, Redis and Kafka, and its tests."""

import json
import unittest
from typing import Any

from kafka import KafkaProducer, TopicPartition
from redis import Redis as RedisClient
from sqlalchemy import (
    CheckConstraint,
    Column,
    Engine,
    Integer,
    MetaData,
    Table,
    Text,
    func,
    insert,
    select,
)
from sqlalchemy.exc import IntegrityError

from orchestrator import Kafka, Postgres, Redis, ServicesMixin

# The application. It knows nothing about tests or containers.

metadata = MetaData()
orders = Table(
    "orders",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("customer", Text, nullable=False),
    Column("item", Text, nullable=False),
    Column("quantity", Integer, CheckConstraint("quantity > 0"), nullable=False),
)


class OrderService:
    """Takes orders: stored for good, cached for five minutes, told to whoever listens."""

    cached_for = 300

    def __init__(
        self, *, engine: Engine, cache: RedisClient, producer: KafkaProducer, topic: str
    ) -> None:
        self._engine = engine
        self._cache = cache
        self._producer = producer
        self._topic = topic

    def place(self, customer: str, item: str, *, quantity: int) -> int:
        """Take an order and return its number."""
        order = {"customer": customer, "item": item, "quantity": quantity}
        with self._engine.begin() as connection:
            number = connection.execute(insert(orders).values(order).returning(orders.c.id))
            order_id: int = number.scalar_one()
        self._remember(order_id, order)
        event = json.dumps({"order": order_id, "status": "placed"}).encode()
        self._producer.send(self._topic, key=customer.encode(), value=event).get(timeout=10)
        return order_id

    def find(self, order_id: int) -> dict[str, Any] | None:
        """An order: from the cache, else from the database."""
        if cached := self._cache.get(f"order:{order_id}"):
            found: dict[str, Any] = json.loads(cached)
            return found
        columns = select(orders.c.customer, orders.c.item, orders.c.quantity)
        with self._engine.connect() as connection:
            row = connection.execute(columns.where(orders.c.id == order_id)).mappings().first()
        if row is None:
            return None
        self._remember(order_id, dict(row))
        return dict(row)

    def _remember(self, order_id: int, order: dict[str, Any]) -> None:
        self._cache.set(f"order:{order_id}", json.dumps(order), ex=self.cached_for)


# Its tests.


class OrderServiceTest(ServicesMixin, unittest.TestCase):
    """Three real servers, started together once for the class; every test finds them clean."""

    db = Postgres(migrate=metadata.create_all)
    cache = Redis()
    events = Kafka()

    def setUp(self) -> None:
        """Give the application its connections, as its main program would."""
        self.topic = self.events.topic("orders")
        self.service = OrderService(
            engine=self.db.engine,
            cache=self.cache.client,
            producer=self.events.producer(),
            topic=self.topic,
        )

    def test_placed_order_reaches_all_three(self) -> None:
        """A placed order is stored, cached and announced."""
        number = self.service.place("ada", "tea", quantity=2)

        with self.db.engine.connect() as connection:
            [row] = connection.execute(select(orders)).all()
        self.assertEqual((number, "ada", "tea", 2), tuple(row))

        cached = json.loads(self.cache.client.get(f"order:{number}") or "null")
        self.assertEqual({"customer": "ada", "item": "tea", "quantity": 2}, cached)
        seconds = self.cache.client.ttl(f"order:{number}")
        self.assertTrue(0 < seconds <= OrderService.cached_for, seconds)

        [event] = self.events.consume(self.topic, count=1, timeout=10)
        self.assertEqual(b"ada", event.key)
        self.assertEqual({"order": number, "status": "placed"}, json.loads(event.value))

        show(
            f"Postgres  orders: {tuple(row)}",
            f"Redis     order:{number}: {cached}, for {seconds} s",
            f"Kafka     {self.topic}, offset {event.offset}: {event.value.decode()}",
        )

    def test_refused_order_leaves_no_trace(self) -> None:
        """An order that the database refuses is neither cached nor announced."""
        with self.assertRaises(IntegrityError):
            self.service.place("ada", "tea", quantity=0)
        self.assertEqual(0, self.cache.client.dbsize())

        # A topic keeps its order: had the refused one been announced, it would come first.
        number = self.service.place("bob", "cake", quantity=1)
        [event] = self.events.consume(self.topic, count=1, timeout=10)
        self.assertEqual(number, json.loads(event.value)["order"])

        show(f"Kafka     first event: {event.value.decode()}, key {event.key.decode()}")

    def test_order_is_found_without_the_cache(self) -> None:
        """When the cache has lost an order, the database still has it, and the cache again."""
        number = self.service.place("ada", "tea", quantity=2)
        self.cache.client.delete(f"order:{number}")

        found = self.service.find(number)

        self.assertEqual({"customer": "ada", "item": "tea", "quantity": 2}, found)
        self.assertEqual(1, self.cache.client.exists(f"order:{number}"))
        show(f"Redis     cached again: {found}")

    def test_every_test_starts_clean(self) -> None:
        """Nothing of the other tests is here: no row, no key, no event."""
        with self.db.engine.connect() as connection:
            rows = connection.execute(select(func.count()).select_from(orders)).scalar_one()
        keys = self.cache.client.dbsize()
        [end] = self.events.consumer().end_offsets([TopicPartition(self.topic, 0)]).values()
        self.assertEqual((0, 0, 0), (rows, keys, end))
        show(f"{rows} rows, {keys} keys, {end} events")


def show(*lines: str) -> None:
    """Let the reader of `python -m unittest -v` see what the test saw."""
    print("", *lines, sep="\n    ", flush=True)  # noqa: T201 - meant to be read
