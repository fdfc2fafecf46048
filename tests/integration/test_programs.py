"""Programs as users write them: frameworks, runners, the page on new services, a sudden end."""

import re
import shutil
import subprocess
import threading
import uuid
from pathlib import Path

from orchestrator.engine import find_endpoint
from tests.faults.proxy import Proxy
from tests.support.processes import ProcessTestCase

EXAMPLES = Path(__file__).parents[1] / "examples"


PAGE = Path(__file__).parents[2] / "src" / "orchestrator" / "services" / "README.md"


SERVICE, USE = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


FAULTS = """
    import pymysql
    import mysql
    import test_orders


    class Telling(mysql.MySQL):
        def server_info(self):
            return {"server": self.running.password}


    class FaultsTest(test_orders.OrdersTest):
        db = Telling()

        def test_faults(self):
            with self.db.connect() as connection:
                connection.cursor().execute("create table t (id int)")
            with self.db.paused(), self.assertRaises(pymysql.OperationalError):
                self.db.connect()
            self.db.kill()
            with self.assertRaises(pymysql.OperationalError):
                self.db.connect()
            self.db.restart()
            with self.db.connect() as connection, connection.cursor() as cursor:
                self.assertEqual(1, cursor.execute("show tables"))

        def test_password(self):
            self.fail()
"""


FILE = """
import unittest
from orchestrator import Container, Redis, ServicesMixin

class OneTest(ServicesMixin, unittest.TestCase):
    cache = Redis()
    box = Container(image="redis", entrypoint=["sleep", "60"], depends_on=["cache"])
    def test_it(self): pass

class TwoTest(ServicesMixin, unittest.TestCase):
    box = Container(image="redis", entrypoint=["false"], ports=[1])
    def test_it(self): pass
"""


def processes() -> str:
    """The command lines of all processes of this machine."""
    done = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True)
    return done.stdout


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


class ProgramsTest(ProcessTestCase):
    """Each leaves nothing behind."""

    def assert_passes(self, project: str, *argv: str, told: str) -> None:
        """Run a command in a copy of a project."""
        shutil.copytree(EXAMPLES / project, self.folder, dirs_exist_ok=True)
        status, output = self.run_python(*argv)
        self.assertEqual(0, status, output)
        self.assertIn(told, output)

    def test_django(self) -> None:
        """`manage.py test`, also in parallel, and pytest-django."""
        for argv, told in (
            (("manage.py", "test", "--parallel", "2"), "Ran 3 tests"),
            (("-m", "pytest", "-q"), "3 passed"),
        ):
            with self.subTest(argv):
                self.assert_passes("django_shop", *argv, told=told)

    def test_pytest_fixtures(self) -> None:
        """Servers of the session, clean state for each test."""
        self.assert_passes("pytest_shop", "-m", "pytest", "-q", told="3 passed")

    def test_a_script(self) -> None:
        """Without any test."""
        self.assert_passes("", "script.py", told="select 6 * 7 => 42")

    def test_the_pages_service_runs_lives_through_faults_and_hides_its_password(self) -> None:
        """Its two blocks, as files, are a test that passes; and it has every fault there is."""
        self.assertLessEqual(len(SERVICE.splitlines()), 60)
        self.write("mysql.py", SERVICE)
        self.write("test_orders.py", USE)
        self.write("test_faults.py", FAULTS)
        argv = ("-W", "error", "-m", "unittest", "-v", "test_faults")
        status, output = self.run_python(*argv)
        self.assertEqual(1, status, output)
        self.assertIn("Ran 4 tests", output)
        self.assertIn("FAILED (failures=1)", output)
        self.assertIn("db: *** at ", output)

    def test_the_option_asks_for_the_page(self) -> None:
        """With the parallel runner, whose workers write to one page what they waited for."""
        self.write("test_it.py", FILE)
        argv = ("-m", "orchestrator", "test", "-j", "2", "--timeline", "timeline.html", "test_it")
        status, output = self.run_python(*argv)
        self.assertEqual(1, status, output)
        text = (self.folder / "timeline.html").read_text(encoding="utf-8")
        self.assertEqual(2, text.count("<section>"), text)
        for part in ("test_it.OneTest", "test_it.TwoTest", "waits for cache:"):
            self.assertIn(part, text)
        self.assertRegex(text, "ServiceExitedError: box: .* exited with exit code 1")
        for phase in ("session", "network", "image", "create", "start", "probe", "prepare"):
            self.assertIn(f'title="{phase}: ', text)

    def kill_when(self, text: str, source: str) -> None:
        """Run a test file, wait for a process with this command line, and kill the test's."""
        self.write("test_it.py", source)
        running = self.start("-m", "unittest", "test_it")
        self.await_that(lambda: text in processes(), lambda: f"{text} never ran")
        running.kill()
        self.finish(running)
        self.await_nothing_left()
        self.await_that(lambda: text not in processes(), lambda: f"{text} still runs")

    def test_a_build_is_given_up(self) -> None:
        """The builder's own container goes too, though it has no label."""
        word = f"sleep 86{uuid.uuid4().int % 10**6}"
        self.write("Dockerfile", f"FROM redis\nRUN {word}\n")
        self.kill_when(
            word,
            """
            import unittest
            from orchestrator import Container, ServicesMixin

            class BuildTest(ServicesMixin, unittest.TestCase):
                box = Container(build=".")
                def test_it(self): pass
            """,
        )

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
