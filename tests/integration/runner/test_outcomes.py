"""Every kind of outcome, counted once and told in unittest's words; what was run is measured."""

import json
import re
import subprocess
import sys
from typing import Any

from tests.integration.runner.case import RunnerTestCase

EVERY_KIND = """
class Kinds(unittest.TestCase):
    def test_ok(self): pass
    def test_failure(self):
        '''What it is about.'''
        self.assertEqual(1, 2)
    def test_error(self): raise RuntimeError("broken")
    @unittest.skip("not today")
    def test_skipped(self): pass
    @unittest.expectedFailure
    def test_expected(self): self.fail()
    @unittest.expectedFailure
    def test_unexpected(self): pass
    def test_subtests(self):
        for number in range(3):
            with self.subTest(number=number): self.assertEqual(1, number)
    def test_twice(self):
        self.addCleanup(self.fail, "in clean-up")
        self.fail("in the body")
class Unready(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise RuntimeError("not ready")
    def test_one(self): pass
@unittest.skip("none of it")
class Skipped(unittest.TestCase):
    def test_one(self): pass
class Untidy(unittest.TestCase):
    @classmethod
    def tearDownClass(cls): raise RuntimeError("not tidy")
    def test_one(self): pass
class Asynchronous(unittest.IsolatedAsyncioTestCase):
    async def test_ok(self): pass
    async def test_failure(self): self.fail()
"""


class OutcomesTest(RunnerTestCase):
    """Outcomes."""

    def test_every_kind_is_reported_as_by_unittest(self) -> None:
        """Each kind of outcome is told apart, in unittest's words, figures and order."""
        self.write(
            test_kinds=EVERY_KIND,
            test_import="import no_such_module",
            test_skip="raise unittest.SkipTest('not on this system')",
            test_skips="""
            def setUpModule(): raise unittest.SkipTest("no server")
            class SkippedModule(unittest.TestCase):
                def test_a(self): pass
            """,
            test_unready="""
            def setUpModule(): raise RuntimeError("no server")
            class UnreadyModule(unittest.TestCase):
                def test_a(self): pass
            """,
        )
        ran = self.run_suite("-j", "2")
        self.assertEqual(
            {
                "Kinds.test_ok": "ok",
                "Kinds.test_failure": "failure",
                "Kinds.test_error": "error",
                "Kinds.test_skipped": "skipped",
                "Kinds.test_expected": "expected-failure",
                "Kinds.test_unexpected": "failure",
                "Kinds.test_subtests": "failure",
                "Kinds.test_twice": "failure",
                "Unready.test_one": "not-run",
                "Unready.setUpClass": "error",
                "Skipped.test_one": "skipped",
                "Untidy.test_one": "ok",
                "Untidy.tearDownClass": "error",
                "Asynchronous.test_ok": "ok",
                "Asynchronous.test_failure": "failure",
                "loader._FailedTest.test_import": "error",
                "loader.ModuleSkipped.test_skip": "skipped",
                "SkippedModule.test_a": "skipped",
                "test_unready.setUpModule": "error",
                "UnreadyModule.test_a": "not-run",
            },
            ran.outcomes,
        )
        self.assertEqual(1, ran.status)
        done = self.run_unittest()
        theirs = done.stderr.rstrip().rpartition("\n")[2]
        self.assertEqual(theirs.rstrip(")") + ", not run=2)", ran.verdict)
        self.assertEqual(_blocks(done.stderr), _blocks(ran.text))

    def test_what_is_counted_otherwise(self) -> None:
        """Each test of a class that a fixture skips; one that reports nothing; a false result."""
        self.write(
            test_a="""
            class Skipped(unittest.TestCase):
                @classmethod
                def setUpClass(cls): raise unittest.SkipTest("no server")
                def test_a(self): pass
                def test_b(self): pass
            class Silent(unittest.TestCase):
                def run(self, result=None): return result
                def test_a(self): pass
            class Doubtful(unittest.TestCase):
                def test_a(self): self._outcome.result.wasSuccessful = lambda: False
            """
        )
        self.assertEqual(
            {
                "Skipped.test_a": "skipped",
                "Skipped.test_b": "skipped",
                "Silent.test_a": "not-run",
                "Doubtful.test_a": "ok",
                "Doubtful.wasSuccessful()": "error",
            },
            self.run_suite("-j", "2").outcomes,
        )


def _blocks(text: str) -> list[str]:
    """The failures, without the lines that follow the last of them."""
    *blocks, last = text.split("=" * 70 + "\n")[1:]
    return [*blocks, re.split(r"\n-{70}\nRan |\nNot run:", last)[0].partition("\nNot run")[0]]


SHOP = """
def price(number):
    if number > 10:
        return number * 9 // 10
    return number
def worker():
    return os.getpid()
def unused():
    return 1
"""
LINES = {7, 9, 11}  # the condition, the return behind it, and that of the worker


class CoverageTest(RunnerTestCase):
    """Coverage of what workers run."""

    def setUp(self) -> None:
        """Have tests of two classes in two workers, one of which crashes, and a child process."""
        super().setUp()
        self.write(
            shop=SHOP,
            test_shop="""
            import shop, subprocess
            class A(unittest.TestCase):
                def test_a(self): self.assertEqual(18, shop.price(20))
                def test_b(self): os._exit(1)
                def test_c(self): self.assertEqual(1, shop.price(1))
            class B(unittest.TestCase):
                def test_b(self):
                    subprocess.run([sys.executable, "-c", "import shop; shop.worker()"], check=True)
            """,
        )

    def test_nothing_to_configure(self) -> None:
        """The data have what every worker and its children ran; a crash costs its worker's."""
        ran = self.run_suite("-j", "2", python=("-m", "coverage", "run", "--branch"))
        self.assertEqual("FAILED (errors=1)", ran.verdict, ran.text)
        self.assertNotIn("CoverageWarning", ran.text)
        shop = self._report()["files"]["shop.py"]
        self.assertLessEqual(LINES, {*shop["executed_lines"]})
        self.assertNotIn(max(LINES) + 2, shop["executed_lines"])
        self.assertIn(sorted(LINES)[:2], shop["executed_branches"])
        left = sorted(path.name for path in self.project.glob(".coverage*"))
        self.assertEqual([".coverage"], left)

    def test_as_coverage_does_it_itself(self) -> None:
        """Workers and children are measured once, in files that are put together."""
        (self.project / ".coveragerc").write_text("[run]\npatch = subprocess\n")
        ran = self.run_suite("-j", "2", python=("-m", "coverage", "run"))
        self.assertEqual("FAILED (errors=1)", ran.verdict, ran.text)
        self._coverage("combine")
        self.assertLessEqual(LINES, {*self._report()["files"]["shop.py"]["executed_lines"]})

    def _report(self) -> Any:
        self._coverage("json", "-q", "-o", "report.json")
        return json.loads((self.project / "report.json").read_text())

    def _coverage(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "coverage", *arguments]
        subprocess.run(command, cwd=self.project, check=True, capture_output=True)
