"""FastAPI with SQLAlchemy's asyncio engine on asyncpg."""

import unittest

import httpx
from fastapi import FastAPI, HTTPException
from sqlalchemy import make_url, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from orchestrator import Postgres, ServicesMixin

# The application.


class Base(DeclarativeBase):
    """Its tables."""


class Order(Base):
    """Somebody wants something."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str] = mapped_column(unique=True)


def create_app(engine: AsyncEngine) -> FastAPI:
    """The application on a database."""
    app = FastAPI()

    @app.post("/orders", status_code=201)
    async def place(item: str) -> dict[str, int]:
        async with AsyncSession(engine) as session, session.begin():
            order = Order(item=item)
            session.add(order)
            try:
                await session.flush()
            except IntegrityError:
                raise HTTPException(409, "ordered already") from None
            return {"id": order.id}

    @app.get("/orders")
    async def orders() -> list[str]:
        async with AsyncSession(engine) as session:
            return list(await session.scalars(select(Order.item).order_by(Order.id)))

    return app


# Its tests.


class OrdersTest(ServicesMixin, unittest.IsolatedAsyncioTestCase):
    """Every test has a database of its own with the tables, and the application on it."""

    db = Postgres(migrate=Base.metadata.create_all)

    async def asyncSetUp(self) -> None:
        """The engine belongs to the test's loop."""
        url = make_url(self.db.url).set(drivername="postgresql+asyncpg")
        engine = create_async_engine(url)
        self.addAsyncCleanup(engine.dispose)
        transport = httpx.ASGITransport(create_app(engine))
        client = httpx.AsyncClient(transport=transport, base_url="http://shop")
        self.client = await self.enterAsyncContext(client)

    async def test_an_order_is_kept(self) -> None:
        """What was ordered is listed."""
        placed = await self.client.post("/orders", params={"item": "tea"})
        self.assertEqual(201, placed.status_code)
        self.assertEqual(["tea"], (await self.client.get("/orders")).json())

    async def test_an_item_is_ordered_once(self) -> None:
        """The database's own rule becomes an answer; the other test's order is not here."""
        first = await self.client.post("/orders", params={"item": "tea"})
        second = await self.client.post("/orders", params={"item": "tea"})
        self.assertEqual((201, 409), (first.status_code, second.status_code))
