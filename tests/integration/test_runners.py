"""The README's example under every runner, and every way a process may end."""

from __future__ import annotations

import re
import signal
from pathlib import Path

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

SLOW_START = """
    import unittest
    from orchestrator import Container, Redis, ServicesMixin

    class SlowTest(ServicesMixin, unittest.TestCase):
        cache = Redis()
        slow = Container(image="redis", command=["sleep", "600"], ports=[6379])

        def test_it(self):
            self.fail("must not be reached")
"""


class RunnersTest(ProcessTestCase):
    """Test classes work unchanged under the common runners."""

    def test_the_readmes_example_passes_under_unittest(self) -> None:
        """The first Python block of the README is a test file that passes."""
        self.write("test_readme.py", BLOCKS[0])
        status, output = self.run_python("-m", "unittest", "-v", "test_readme")
        self.assertEqual(0, status, output)
        self.assertIn("test_order", output)

    def test_the_readmes_example_passes_under_pytest(self) -> None:
        """Pytest needs no plug-in."""
        self.write("test_readme.py", BLOCKS[0])
        status, output = self.run_python("-m", "pytest", "-q", "-p", "no:cacheprovider")
        self.assertEqual(0, status, output)
        self.assertIn("1 passed", output)

    def test_classes_run_side_by_side_under_pytest_xdist(self) -> None:
        """Each worker process owns its services."""
        self.write("test_two.py", TWO_CLASSES)
        status, output = self.run_python("-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider")
        self.assertEqual(0, status, output)
        self.assertIn("3 passed", output)

    def test_two_classes_in_one_module_pass_under_unittest(self) -> None:
        """One class's services end before the next one's begin."""
        self.write("test_two.py", TWO_CLASSES)
        status, output = self.run_python("-W", "error", "-m", "unittest", "test_two")
        self.assertEqual(0, status, output)

    def test_a_failure_under_pytest_shows_the_services_logs(self) -> None:
        """The note reaches pytest's report."""
        self.write("test_fails.py", ENDS.format(statement='self.fail("as wanted")'))
        status, output = self.run_python("-m", "pytest", "-q", "-p", "no:cacheprovider")
        self.assertEqual(1, status, output)
        self.assertIn("Services during this test", output)

    def test_a_class_whose_tests_are_all_skipped_starts_nothing(self) -> None:
        """Each test is skipped for its own reason; a class with one that runs is not skipped."""
        self.write("test_skipped.py", SKIPPED)
        for runner in (
            ["unittest", "-v"],
            ["orchestrator", "test", "-v"],
            ["pytest", "-rsA", "-p", "no:cacheprovider"],
        ):
            with self.subTest(runner[0]):
                status, output = self.run_python("-m", *runner, "test_skipped.py")
                self.assertEqual(1, status, output)
                for reason in ("not today", "not here", "ImageNotLockedError"):
                    self.assertIn(reason, output)


class EndingsTest(ProcessTestCase):
    """However the process ends, nothing is left."""

    def end_by(self, statement: str) -> int:
        """Run a test that ends its process; its exit status."""
        self.write("test_ends.py", ENDS.format(statement=statement))
        status, _ = self.run_python("-m", "unittest", "test_ends")
        self.await_nothing_left()
        return status

    def test_sys_exit_in_a_test_leaves_nothing(self) -> None:
        """Unittest lets SystemExit through... and we clean up."""
        self.assertNotEqual(0, self.end_by("sys.exit(4)"))

    def test_os_exit_in_a_test_leaves_nothing(self) -> None:
        """No Python code runs any more; the watchdog does."""
        self.assertEqual(4, self.end_by("os._exit(4)"))

    def test_a_kill_in_a_test_leaves_nothing(self) -> None:
        """SIGKILL cannot be handled; the watchdog cleans up."""
        self.assertEqual(-signal.SIGKILL, self.end_by("os.kill(os.getpid(), signal.SIGKILL)"))

    def test_ctrl_c_in_a_test_leaves_nothing(self) -> None:
        """Unittest runs no clean-ups on Ctrl-C; we do."""
        status = self.end_by("os.kill(os.getpid(), signal.SIGINT)")
        self.assertIn(status, (-signal.SIGINT, 1, 130))

    def test_signals_in_the_middle_of_the_start_leave_nothing(self) -> None:
        """Ctrl-C, SIGTERM and SIGHUP while a service is waited for end the process, clean."""
        self.write("test_slow.py", SLOW_START)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(number.name):
                process = self.start("-m", "unittest", "test_slow")
                self.await_that(
                    lambda: sum("running" in item for item in self.left()) == 2,
                    lambda: f"not started: {self.left()}",
                )
                process.send_signal(number)
                status, output = self.finish(process)
                self.assertNotEqual(0, status, output)
                self.assertNotIn("must not be reached", output)
                self.await_nothing_left()
