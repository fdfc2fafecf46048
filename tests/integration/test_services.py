"""``Services``, and one service alone: what runs where there is no test class."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Self, assert_type

from orchestrator import Container, Postgres, Redis, Services
from orchestrator.errors import (
    DeclarationError,
    ServiceError,
    ServiceExitedError,
    ServiceNotRunningError,
)
from tests.support.classes import LeakCheckedTestCase, left_of_this_process
from tests.support.processes import ProcessTestCase

if TYPE_CHECKING:
    from collections.abc import Iterator


class Shop(Services):
    """What most of these tests enter."""

    db = Postgres(isolation="schema")
    cache = Redis()

    def put(self, name: str) -> None:
        """Something of a user's own, which works on whatever state it is called on."""
        self.cache.client.set(name, "1")


class ServicesTest(LeakCheckedTestCase):
    """One `Shop` for all tests here, as `setUpModule` would have it."""

    shop: Shop

    @classmethod
    def setUpClass(cls) -> None:
        """Enter it."""
        super().setUpClass()
        cls.shop = cls.enterClassContext(Shop())

    def setUp(self) -> None:
        """No check of leaks: the servers live on."""

    def test_each_isolated_has_what_a_test_has(self) -> None:
        """Clean state and typed attributes."""
        assert_type(self.shop.db, Postgres)
        for _ in range(2):
            with self.shop.isolated("a name; drop table") as clean:
                assert_type(clean, Shop)
                self.assertEqual([], clean.cache.client.keys())
                clean.put("left over")
                with clean.db.connect() as connection:
                    connection.execute("create table left_over()")
            with self.assertRaisesRegex(ServiceNotRunningError, r"with Shop\(\) as it"):
                _ = clean.db.url

    def test_two_at_once_are_refused(self) -> None:
        """Also in another thread; the first is as it was, and the next one may begin."""
        told: list[str] = []

        def isolate() -> None:
            try:
                self.enterContext(self.shop.isolated("second"))
            except DeclarationError as error:
                told.append(str(error))

        with self.shop.isolated("first") as clean:
            clean.put("kept")
            thread = threading.Thread(target=isolate)
            thread.start()
            thread.join()
            self.assertRegex(
                told[0], r"^cache can be clean for one at a time, and isolated\('first'"
            )
            self.assertEqual([b"kept"], clean.cache.client.keys())
        isolate()
        self.assertEqual(1, len(told))

    def test_entering_twice_is_refused(self) -> None:
        """What runs goes on."""
        with self.assertRaisesRegex(DeclarationError, r"entered already; another Shop\(\)"):
            self.shop.__enter__()
        self.assertTrue(self.shop.cache.client.ping())

    def test_a_coroutine_may_use_it(self) -> None:
        """Entered in its loop, or in a thread so that the loop goes on."""

        async def use() -> str:
            stack = contextlib.ExitStack()
            isolation = self.shop.isolated("coroutine")
            clean = await asyncio.to_thread(stack.enter_context, isolation)
            await clean.cache.async_client.set("a", "1")
            async with clean.db.async_engine.connect() as connection:
                driver = str(connection.engine.url.drivername)
            await asyncio.to_thread(stack.close)
            with self.shop.isolated("in the loop") as clean:
                await clean.cache.async_client.set("a", "1", nx=True)
            await asyncio.sleep(0.1)  # the loop closes the client
            return driver

        self.assertIn("psycopg", asyncio.run(use()))

    def test_a_forked_child_uses_it_and_ends_nothing(self) -> None:
        """Neither by leaving the block, nor by its end."""
        with contextlib.ExitStack() as stack:
            clean = stack.enter_context(self.shop.isolated("fork"))
            clean.put("kept")
            child = os.fork()
            if not child:
                stack.close()
                with contextlib.suppress(BaseException):
                    self.shop.__exit__(None, None, None)
                os._exit(0)
            os.waitpid(child, 0)
            self.assertEqual([b"kept"], clean.cache.client.keys())


class LifeTest(LeakCheckedTestCase):
    """What is entered ends with its block."""

    def test_instances_are_apart(self) -> None:
        """Nested, each has its own servers; a block that raises leaves none."""

        class Small(Services):
            cache = Redis()

        class Smaller(Small):
            cache = Redis(maxmemory="3mb")

        with (
            self.assertRaises(ZeroDivisionError),
            Small() as one,
            Small() as other,
            Smaller() as third,
        ):
            ids = {one.cache.container_id, other.cache.container_id, third.cache.container_id}
            self.assertEqual(3, len(ids))
            _ = 1 / 0
        with self.assertRaisesRegex(ServiceNotRunningError, r"isolated\('x'\) needs running"):
            self.enterContext(one.isolated("x"))

    def test_a_server_for_each_isolated(self) -> None:
        """Where the scope asks for it; beside those that live with the instance."""

        class Boxed(Services):
            cache = Redis()
            box = Container(
                image="redis", entrypoint=["sleep", "60"], scope="test", depends_on=[cache]
            )

        with Boxed() as boxed:
            for _ in range(2):
                with boxed.isolated("x") as clean:
                    asked = clean.box.exec(["redis-cli", "-u", clean.cache.internal_url, "ping"])
                    self.assertIn("PONG", asked.output.splitlines())
                    with self.assertRaisesRegex(ServiceNotRunningError, r"Boxed\.box.*isolated"):
                        _ = boxed.box.container_id

    def test_a_start_that_fails_leaves_nothing(self) -> None:
        """The error names the attribute; the instance may be entered again."""

        class Broken(Services):
            dead = Redis(command=["sh", "-c", "exit 3"])

        broken = Broken()
        for _ in range(2):
            with self.assertRaisesRegex(ServiceExitedError, "dead"):
                broken.__enter__()
            self.assertEqual([], list(left_of_this_process()))

    def test_an_error_of_the_block_comes_first(self) -> None:
        """What could not be cleaned after it is its note; without one, it is the error."""

        class Grumpy(Container):
            @contextlib.contextmanager
            def isolated(self, test: str) -> Iterator[Self]:
                yield self
                raise RuntimeError("I would rather not")

        class Odd(Services):
            box = Grumpy(image="redis", entrypoint=["sleep", "60"])

        with Odd() as odd:
            with self.assertRaises(ZeroDivisionError) as raised, odd.isolated("fails"):
                _ = 1 / 0
            self.assertIn("I would rather not", raised.exception.__notes__[0])
            with self.assertRaisesRegex(ServiceError, "I would rather not"), odd.isolated("x"):
                pass

    def test_one_service_alone(self) -> None:
        """Its handle has clean state at once; it is neither entered twice nor where it runs."""
        declared = Redis()
        with declared as cache:
            assert_type(cache, Redis)
            cache.client.set("a", "1")
            self.assertTrue(cache.url.startswith("redis://"))
            with self.assertRaisesRegex(DeclarationError, "redis runs already"):
                cache.__enter__()
            with self.assertRaisesRegex(DeclarationError, "This Redis is entered already"):
                declared.__enter__()
        with self.assertRaisesRegex(DeclarationError, r"Shop\.cache runs with its class"):
            Shop.cache.__enter__()


KILLED = """
    import sys, time
    from orchestrator import Redis, Services

    class Shop(Services):
        cache = Redis()
        shared = Redis(scope="process")

    shop, other = Shop().__enter__(), Shop().__enter__()
    assert shop.cache.container_id != other.cache.container_id
    print(shop.shared.container_id == other.shared.container_id, flush=True)
    time.sleep(60)
"""
MODULE = """
    import unittest
    from orchestrator import Redis, Services

    class Shop(Services):
        cache = Redis()

    def setUpModule():
        global shop
        shop = unittest.enterModuleContext(Shop())

    class OneTest(unittest.TestCase):
        def test_it(self):
            self.assertTrue(shop.cache.client.ping())
"""
FIXTURE = """
    import pytest
    from orchestrator import Redis, Services

    class Shop(Services):
        cache = Redis()

    @pytest.fixture(scope="session")
    def shop():
        with Shop() as it:
            yield it

    @pytest.fixture
    def clean(shop, request):
        with shop.isolated(request.node.name) as it:
            yield it

    @pytest.mark.parametrize("number", [1, 2])
    def test_it(clean, number):
        assert clean.cache.client.set("a", "1", nx=True)
"""


class ProcessTest(ProcessTestCase):
    """In a program of its own, however that ends."""

    def test_a_process_that_is_killed_leaves_nothing(self) -> None:
        """As for a test class."""
        self.write("script.py", KILLED)
        process = self.start("script.py")
        assert process.stdout
        self.assertEqual("True\n", process.stdout.readline())
        process.send_signal(signal.SIGKILL)

    def test_a_module_and_a_pytest_session_have_one(self) -> None:
        """Without a daemon they are skipped, where that is asked for; a script fails."""
        self.write("test_module.py", MODULE)
        self.write("test_fixture.py", FIXTURE)
        self.write("script.py", KILLED)
        status, output = self.run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", ".")
        self.assertEqual(0, status, output)
        self.assertIn("3 passed", output)
        nowhere = {"DOCKER_HOST": "unix:///nowhere", "ORCHESTRATOR_SKIP_WITHOUT_DOCKER": "1"}
        self.environ.update(nowhere)
        status, output = self.run_python("-m", "unittest", "test_module.py")
        self.assertIn("skipped=1", output)
        status, output = self.run_python("script.py")
        self.assertIn("EngineUnavailableError", output)
