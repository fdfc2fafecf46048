"""asyncio: the same services behind coroutines."""

import asyncio
import unittest

from sqlalchemy import text

from orchestrator import Postgres, Redis, ServicesMixin


class VisitsTest(ServicesMixin, unittest.IsolatedAsyncioTestCase):
    """Services start before the first coroutine, and clients belong to the test's own loop."""

    db = Postgres()
    cache = Redis()

    async def asyncSetUp(self) -> None:
        """Make the table in this test's schema; close the client before the test's loop ends."""
        self.addAsyncCleanup(self.cache.async_client.aclose)
        async with self.db.async_engine.begin() as connection:
            await connection.execute(text("create table visits(page text)"))

    async def test_transactions_run_side_by_side(self) -> None:
        """Ten transactions at once see the test's table, and none of them is lost."""

        async def visit(page: str) -> None:
            async with self.db.async_engine.begin() as connection:
                await connection.execute(text("insert into visits values (:page)"), {"page": page})
            await self.cache.async_client.incr("visits")

        await asyncio.gather(*(visit(f"/{number}") for number in range(10)))

        async with self.db.async_engine.connect() as connection:
            rows = await connection.scalar(text("select count(*) from visits"))
        self.assertEqual(10, rows)
        self.assertEqual(b"10", await self.cache.async_client.get("visits"))

    async def test_other_tests_do_not_show(self) -> None:
        """Tables and keys of the other tests are not here."""
        async with self.db.async_engine.connect() as connection:
            rows = await connection.scalar(text("select count(*) from visits"))
        self.assertEqual(0, rows)
        self.assertEqual(0, await self.cache.async_client.dbsize())
