"""``Services``, and one service alone: where there is no test class; and how long each lives."""

import contextlib
import os
import signal
import tempfile
import unittest
from pathlib import Path
from typing import assert_type
from unittest import mock

from orchestrator import Container, Postgres, Redis, Services, ServicesMixin
from orchestrator.errors import (
    DeclarationError,
    ServiceNotRunningError,
)
from tests.support.classes import LeakCheckedTestCase
from tests.support.processes import ProcessTestCase


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
        """The first is as it was, and the next one may begin."""
        with self.shop.isolated("first") as clean:
            clean.put("kept")
            told = r"^cache can be clean for one at a time, and isolated\('first'"
            with self.assertRaisesRegex(DeclarationError, told), self.shop.isolated("second"):
                self.fail("two have the same state")
            self.assertEqual([b"kept"], clean.cache.client.keys())
        with self.shop.isolated("third"):
            pass

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


SHARED = """
    import unittest
    from orchestrator import Container, Redis, ServicesMixin

    SEEN = set()

    class Base(ServicesMixin, unittest.TestCase):
        cache = Redis(scope="process", log_to="shop.cache")
        shell = Container(image="redis", command=["sleep", "60"])

        def test_it(self):
            SEEN.add(self.cache.container_id)
            self.assertEqual([], self.cache.client.keys())
            self.cache.client.set("left", "over")
            asked = self.shell.exec(["redis-cli", "-u", self.cache.internal_url, "ping"])
            self.assertIn("PONG", asked.output.splitlines())

    class FirstTest(Base): ...

    class KillTest(Base):
        shell = None
        def test_it(self):
            self.assertEqual({self.cache.container_id}, SEEN)
            SEEN.clear()
            self.cache.kill()

    class SecondTest(Base): ...
"""


class LifeTest(LeakCheckedTestCase):
    """What is entered ends with its block, what is a test's with the test."""

    def test_instances_are_apart(self) -> None:
        """Nested, each has its own servers; a block that raises leaves none."""

        class Small(Services):
            cache = Redis()

        with self.assertRaises(ZeroDivisionError), Small() as one, Small() as other:
            self.assertNotEqual(one.cache.container_id, other.cache.container_id)
            _ = 1 / 0
        with self.assertRaisesRegex(ServiceNotRunningError, r"isolated\('x'\) needs running"):
            self.enterContext(one.isolated("x"))

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

    def test_every_test_has_a_server_of_its_own(self) -> None:
        """It may depend on the class's, is on their network, and its log is kept like theirs."""
        containers: list[str] = []

        class Each(ServicesMixin, unittest.TestCase):
            cache = Redis()
            box = Container(
                image="redis",
                entrypoint=["sh", "-c", "echo here; exec sleep 60"],
                scope="test",
                depends_on=[cache],
            )

            def test_one(self) -> None:
                self.test_two()
                asked = self.box.exec(["redis-cli", "-u", self.cache.internal_url, "ping"])
                self.assertIn("PONG", asked.output.splitlines())

            def test_two(self) -> None:
                containers.append(self.box.container_id)
                while "here" not in self.box.logs():
                    pass

        Each.__qualname__ = "../../out/\x1b[2JEach"  # a name may be anything, a folder is below
        with (
            tempfile.TemporaryDirectory() as folder,
            mock.patch.dict(os.environ, {"ORCHESTRATOR_LOGS": folder}),
        ):
            self.assert_passes(Each)
            logs = [file.read_text() for file in Path(folder).glob("*/box.log")]
            [kept] = Path(folder).iterdir()
            self.assertTrue(kept.name.isprintable())
        self.assertEqual(2, len(set(containers)))
        self.assertEqual(["here\nhere\n"], logs)


class ProcessTest(ProcessTestCase):
    """In a program of its own, however that ends; ``scope="process"``."""

    def test_a_process_that_is_killed_leaves_nothing(self) -> None:
        """As for a test class."""
        self.write("script.py", KILLED)
        process = self.start("script.py")
        assert process.stdout
        self.assertEqual("True\n", process.stdout.readline())
        process.send_signal(signal.SIGKILL)

    def test_a_module_has_one(self) -> None:
        """Without a daemon it is skipped, where that is asked for; a script fails."""
        self.write("test_module.py", MODULE)
        self.write("script.py", KILLED)
        status, output = self.run_python("-m", "unittest", "test_module.py")
        self.assertEqual(0, status, output)
        nowhere = {"DOCKER_HOST": "unix:///nowhere", "ORCHESTRATOR_SKIP_WITHOUT_DOCKER": "1"}
        self.environ.update(nowhere)
        status, output = self.run_python("-m", "unittest", "test_module.py")
        self.assertIn("skipped=1", output)
        status, output = self.run_python("script.py")
        self.assertIn("EngineUnavailableError", output)

    def test_subclasses_share_one_server_with_clean_state_for_each_test(self) -> None:
        """Emptied, on each class's network, with a log of its own; a killed one is started anew."""
        self.environ["ORCHESTRATOR_LOGS"] = str(self.folder / "logs")
        self.write("test_shared.py", SHARED)
        classes = [f"test_shared.{name}Test" for name in ("First", "Kill", "Second")]
        status, output = self.run_python("-W", "error", "-m", "unittest", "-v", *classes)
        self.assertEqual((0, 3), (status, output.count("... ok")), output)
        self.assertIn("Ready to accept", (self.folder / "logs/process/cache.log").read_text())
