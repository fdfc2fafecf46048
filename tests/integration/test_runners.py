"""Test classes as users write them, under the common runners."""

import threading

from orchestrator.engine import find_endpoint
from tests.faults.proxy import Proxy
from tests.support.processes import ProcessTestCase

PASSES = """
    import unittest
    from orchestrator import Redis, ServicesMixin

    class PassesTest(ServicesMixin, unittest.TestCase):
        cache = Redis()

        def test_one(self):
            self.assertEqual([], self.cache.client.keys())
            self.cache.client.set("left", "over")

        test_two = test_one
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

FAILS = """
    import unittest
    from orchestrator import Redis, ServicesMixin

    class FailsTest(ServicesMixin, unittest.TestCase):
        one = Redis()
        two = Redis()

        def test_it(self):
            {statement}
"""
OFTEN = """for number in range(5):
                with self.subTest(number=number):
                    self.fail("as wanted")"""

FORKS = """
    import os, sys, unittest
    from orchestrator import Redis, ServicesMixin

    class ForksTest(ServicesMixin, unittest.TestCase):
        cache = Redis()

        def status_of(self, child):
            self.cache.client.set("key", "kept")
            pid = os.fork()
            if not pid:
                return child()
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
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


class RunnersTest(ProcessTestCase):
    """Nothing is installed or configured for any of them."""

    def test_pytest_xdist(self) -> None:
        """Each worker process owns its services; a failure's note is part of the report."""
        self.write("test_passes.py", PASSES)
        self.write("test_fails.py", FAILS.format(statement='self.fail("as wanted")'))
        status, output = self.run_python("-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider")
        self.assertEqual(1, status, output)
        self.assertIn("1 failed, 2 passed", output)
        self.assertIn("as wanted", output)
        self.assertIn("Services during this test", output)

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
        self.write("test_fails.py", FAILS.format(statement=OFTEN))
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
