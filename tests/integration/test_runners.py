"""Test classes as users write them, under the common runners."""

from __future__ import annotations

import re
import signal
import threading
from pathlib import Path

from orchestrator.engine import find_endpoint
from tests.faults.proxy import Proxy
from tests.support.processes import ProcessTestCase

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

TWO_CLASSES = """
    import unittest
    from orchestrator import Redis, ServicesMixin

    class FirstTest(ServicesMixin, unittest.TestCase):
        cache = Redis()

        def test_one(self):
            self.assertTrue(self.cache.client.ping())

        def test_two(self):
            self.assertEqual([], self.cache.client.keys())

    class SecondTest(ServicesMixin, unittest.TestCase):
        cache = Redis()

        def test_it(self):
            self.assertTrue(self.cache.client.ping())
"""
SKIPPED = """
    import unittest
    from orchestrator import Container, ServicesMixin

    class SkippedTest(ServicesMixin, unittest.TestCase):
        never = Container(image="never.invalid/locked:1")

        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            cls.never.exec(["true"])

        @unittest.skip("not today")
        def test_one(self): pass

    class AsyncTest(ServicesMixin, unittest.IsolatedAsyncioTestCase):
        never = Container(image="never.invalid/locked:1")

        @unittest.skipIf(True, "not here")
        async def test_one(self): pass

    class RunningTest(SkippedTest):
        def test_two(self): pass
"""

ENDS = """
    import os, signal, sys, unittest
    from orchestrator import Redis, ServicesMixin

    class EndsTest(ServicesMixin, unittest.TestCase):
        cache = Redis()

        def test_it(self):
            {statement}
"""

FORKS = """
    import os, sys, unittest
    from orchestrator import Postgres, Redis, ServicesMixin

    class ForksTest(ServicesMixin, unittest.TestCase):
        cache = Redis()
        db = Postgres()

        def status_of(self, child):
            with self.db.engine.begin() as connection:
                connection.exec_driver_sql("create table kept()")
            self.cache.client.set("key", "kept")
            pid = os.fork()
            if not pid:
                return child()
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            with self.db.engine.connect() as connection:
                connection.exec_driver_sql("select * from kept")
            self.assertEqual(b"kept", self.cache.client.get("key"))
            return status

        def test_exit(self):
            self.assertEqual(3, self.status_of(lambda: sys.exit(3)))

        def test_failure(self):
            self.assertEqual(1, self.status_of(lambda: self.fail("in the child")))

        def test_return(self):
            self.assertIn(self.status_of(lambda: None), (None, 70))

        def test_return_while_paused(self):
            with self.cache.paused():
                pid = os.fork()
                if not pid:
                    return
                os.waitpid(pid, 0)
                self.assertEqual("paused", self.cache.state().status)
"""

FAILS_OFTEN = """
    import unittest
    from orchestrator import Redis, ServicesMixin

    class FailsTest(ServicesMixin, unittest.TestCase):
        one = Redis()
        two = Redis()

        def test_it(self):
            for number in range(5):
                with self.subTest(number=number):
                    self.fail("as wanted")
"""


class RunnersTest(ProcessTestCase):
    """Nothing is installed or configured for any of them."""

    def test_unittest_runs_the_readmes_example(self) -> None:
        """The first Python block of the README passes."""
        self.write("test_readme.py", BLOCKS[0])
        status, output = self.run_python("-W", "error", "-m", "unittest", "-v")
        self.assertEqual(0, status, output)
        self.assertIn("test_order", output)
        self.assertIn("Ran 1 test", output)

    def test_pytest_xdist(self) -> None:
        """Each worker process owns its services; a failure's note is part of the report."""
        self.write("test_two.py", TWO_CLASSES)
        self.write("test_fails.py", ENDS.format(statement='self.fail("as wanted")'))
        status, output = self.run_python("-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider")
        self.assertEqual(1, status, output)
        self.assertIn("1 failed, 3 passed", output)
        self.assertIn("as wanted", output)
        self.assertIn("Services during this test", output)

    def test_ctrl_c_has_one_traceback(self) -> None:
        """Unittest runs no clean-ups on Ctrl-C; we do, and add nothing to what it prints."""
        self.write("test_ends.py", ENDS.format(statement="signal.raise_signal(signal.SIGINT)"))
        status, output = self.run_python("-m", "unittest", "test_ends")
        self.await_nothing_left()
        self.assertIn(status, (-signal.SIGINT, 1, 130))
        self.assertEqual(1, output.count("Traceback"), output)
        self.assertTrue(output.endswith("\nKeyboardInterrupt\n"), output)

    def test_a_forked_child_is_not_the_test(self) -> None:
        """However a child comes back from a test, its parent's state stays; one report is made."""
        self.write("test_forks.py", FORKS)
        for runner, passed in (
            (["pytest", "-q", "-p", "no:cacheprovider"], "4 passed"),
            (["orchestrator", "test"], "Ran 4 tests"),
        ):
            with self.subTest(runner[0]):
                status, output = self.run_python("-m", *runner, "test_forks.py")
                self.assertEqual(0, status, output)
                self.assertEqual(1, output.count(passed), output)
                self.assertNotIn("Exception ignored", output)

    def test_a_daemon_whose_logs_hang_is_waited_for_once(self) -> None:
        """A test that fails often, with two services, asks for logs once; the failures are told."""
        self.write("test_fails.py", FAILS_OFTEN)
        asked: list[bytes] = []
        over = threading.Event()

        def hang(data: bytes) -> None:
            if b"/logs?" in data:
                asked.append(data)
                over.wait()

        with Proxy(f"unix://{find_endpoint().socket}", before=hang) as proxy:
            self.environ |= {"DOCKER_HOST": proxy.url, "ORCHESTRATOR_ENGINE_TIMEOUT": "5"}
            try:
                status, output = self.run_python("-m", "unittest", "test_fails")
            finally:
                over.set()
        self.assertEqual(1, status, output)
        self.assertEqual(5, output.count("AssertionError: as wanted"), output)
        self.assertEqual(1, len(asked), output)

    def test_a_class_whose_tests_are_all_skipped_starts_nothing(self) -> None:
        """Each test is skipped for its own reason; a class with one that runs is not skipped."""
        self.write("test_skipped.py", SKIPPED)
        for runner in (["unittest", "-v"], ["orchestrator", "test", "-v"]):
            with self.subTest(runner[0]):
                status, output = self.run_python("-m", *runner, "test_skipped.py")
                self.assertEqual(1, status, output)
                for reason in ("not today", "not here", "ImageNotLockedError"):
                    self.assertIn(reason, output)

    def test_no_socket_is_left_to_the_end_of_python(self) -> None:
        """Neither the daemon's nor the watchdog's: some programs are shown a ResourceWarning."""
        look = """
    import atexit, gc, socket

    @atexit.register
    def look():
        gc.unfreeze()
        sockets = [it for it in gc.get_objects() if type(it) is socket.socket]
        print("open at the end:", [it for it in sockets if it.fileno() >= 0])
"""
        self.write("test_two.py", look + TWO_CLASSES)
        for runner in (["unittest"], ["orchestrator", "test", "-j", "1"]):
            with self.subTest(runner[0]):
                status, output = self.run_python("-m", *runner, "test_two.py")
                self.assertEqual(0, status, output)
                self.assertIn("open at the end: []", output)
                self.assertNotIn("open at the end: [<", output)
