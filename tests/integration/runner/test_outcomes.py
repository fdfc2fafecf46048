"""Every kind of outcome, counted once and told in unittest's words."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.integration.runner.case import RunnerTestCase

EVERY_KIND = """
    class Kinds(unittest.TestCase):
        def test_ok(self):
            pass

        def test_failure(self):
            '''What it is about.'''
            self.assertEqual(1, 2)

        def test_error(self):
            raise RuntimeError("broken")

        @unittest.skip("not today")
        def test_skipped(self):
            pass

        @unittest.expectedFailure
        def test_expected(self):
            self.fail()

        @unittest.expectedFailure
        def test_unexpected(self):
            pass

        def test_subtests(self):
            for number in range(3):
                with self.subTest(number=number):
                    self.assertEqual(1, number)

        def test_twice(self):
            self.addCleanup(self.fail, "in clean-up")
            self.fail("in the body")


    class Unready(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            raise RuntimeError("not ready")

        def test_one(self):
            pass


    @unittest.skip("none of it")
    class Skipped(unittest.TestCase):
        def test_one(self):
            pass


    class Untidy(unittest.TestCase):
        @classmethod
        def tearDownClass(cls):
            raise RuntimeError("not tidy")

        def test_one(self):
            pass


    class Asynchronous(unittest.IsolatedAsyncioTestCase):
        async def test_ok(self):
            pass

        async def test_failure(self):
            self.fail()
"""


class OutcomesTest(RunnerTestCase):
    """Outcomes."""

    def test_every_kind_is_told_apart(self) -> None:
        """Each kind of outcome is reported as what it is, once."""
        self.write(test_kinds=EVERY_KIND)
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
            },
            ran.outcomes,
        )
        self.assertEqual(1, ran.status)

    def test_figures_are_those_of_unittest(self) -> None:
        """The last line counts like unittest's, and adds what did not run."""
        self.write(test_kinds=EVERY_KIND)
        theirs = self._unittest()
        ours = self.run_suite("-j", "2").verdict
        self.assertEqual(theirs.rstrip(")") + ", not run=1)", ours)

    def test_failures_are_told_as_by_unittest(self) -> None:
        """Each failure's heading and traceback is the text that unittest prints."""
        self.write(test_kinds=EVERY_KIND)
        self.assertEqual(
            _blocks(self._unittest(whole=True)), _blocks(self.run_suite("-j", "2").text)
        )

    def test_order_of_failures_is_the_same_every_time(self) -> None:
        """However the classes overlap, failures come in collected order."""
        self.write(test_kinds=EVERY_KIND)
        orders = {tuple(_headings(self.run_suite("-j", "3").text)) for _ in range(3)}
        self.assertEqual(1, len(orders))

    def test_success(self) -> None:
        """A suite that passes ends with OK and status 0."""
        self.write(test_one="class A(unittest.TestCase):\n    def test_a(self): pass\n")
        ran = self.run_suite()
        self.assertEqual(("OK", 0), (ran.verdict, ran.status))

    def test_class_skipped_by_its_fixture(self) -> None:
        """SkipTest in setUpClass skips every test of the class, and fails nothing."""
        self.write(
            test_skip="""
            class A(unittest.TestCase):
                @classmethod
                def setUpClass(cls):
                    raise unittest.SkipTest("no server")
                def test_a(self): pass
                def test_b(self): pass
            """
        )
        ran = self.run_suite()
        self.assertEqual({"A.test_a": "skipped", "A.test_b": "skipped"}, ran.outcomes)
        self.assertEqual("OK (skipped=2)", ran.verdict)

    def test_module_skipped_by_its_fixture(self) -> None:
        """SkipTest in setUpModule skips every test of the module."""
        self.write(
            test_skip="""
            def setUpModule():
                raise unittest.SkipTest("no server")
            class A(unittest.TestCase):
                def test_a(self): pass
            class B(unittest.TestCase):
                def test_b(self): pass
            """
        )
        ran = self.run_suite()
        self.assertEqual({"A.test_a": "skipped", "B.test_b": "skipped"}, ran.outcomes)

    def test_module_skipped_on_import(self) -> None:
        """SkipTest while a module is imported is a skip, as in unittest."""
        self.write(test_skip='raise unittest.SkipTest("not on this system")')
        self.assertEqual("OK (skipped=1)", self.run_suite().verdict)

    def test_module_fixture_that_fails(self) -> None:
        """When setUpModule fails nothing of the module runs, and that is said."""
        self.write(
            test_module="""
            def setUpModule():
                raise RuntimeError("no server")
            class A(unittest.TestCase):
                def test_a(self): pass
            """
        )
        ran = self.run_suite()
        self.assertEqual("FAILED (errors=1, not run=1)", ran.verdict)
        self.assertIn("not-run", ran.outcomes["A.test_a"])

    def test_import_errors(self) -> None:
        """Modules that cannot be imported are one error each, and the rest runs."""
        self.write(
            test_a="import no_such_module",
            test_b="raise ValueError('broken')",
            test_c="class C(unittest.TestCase):\n    def test_c(self): pass\n",
        )
        ran = self.run_suite("-j", "2")
        self.assertEqual("FAILED (errors=2)", ran.verdict)
        self.assertIn("No module named 'no_such_module'", ran.text)
        self.assertEqual("ok", ran.outcomes["C.test_c"])

    def test_nothing_collected(self) -> None:
        """No test at all is status 5 on every Python."""
        self.write(helper="")
        ran = self.run_suite()
        self.assertEqual(("NO TESTS RAN", 5), (ran.verdict, ran.status))

    def test_same_id_twice(self) -> None:
        """Tests that load_tests yields twice under one id run twice, and are two outcomes."""
        self.write(
            test_twice="""
            class A(unittest.TestCase):
                def test_a(self):
                    with open("ran", "a") as file:
                        file.write("x")
            def load_tests(loader, tests, pattern):
                same = A("test_a")
                return unittest.TestSuite([A("test_a"), A("test_a"), same, same])
            """
        )
        ran = self.run_suite()
        self.assertEqual("ok, ok, ok, ok", ran.outcomes["A.test_a"])
        self.assertEqual("xxxx", (self.project / "ran").read_text())

    def test_exception_that_cannot_be_pickled_or_shown(self) -> None:
        """An exception that neither pickles nor prints is still that test's error."""
        self.write(
            test_odd="""
            class Odd(Exception):
                def __init__(self, a, b):
                    super().__init__(lambda: None)
                def __str__(self):
                    raise RuntimeError("no text")
                def __reduce__(self):
                    raise RuntimeError("no pickle")
            class A(unittest.TestCase):
                def test_a(self):
                    raise Odd(1, 2)
                def test_b(self): pass
            """
        )
        ran = self.run_suite()
        self.assertEqual({"A.test_a": "error", "A.test_b": "ok"}, ran.outcomes)

    def test_surrogates_and_control_characters(self) -> None:
        """What no encoding and no XML can carry is shown escaped, and loses no outcome."""
        self.write(
            test_odd=r"""
            class A(unittest.TestCase):
                def test_a(self):
                    with self.subTest(name="\udc80 \x00 \x1b"):
                        self.fail("lone \udcfe surrogate, \x07 bell, \uffff")
                test_a.__doc__ = "Description with \udcff."
            """
        )
        ran = self.run_suite("-v")
        self.assertEqual("FAILED (failures=1)", ran.verdict)
        self.assertIn(r"lone \udcfe surrogate", ran.text)
        [failure] = ran.report.iter("failure")
        self.assertIn(r"\x07 bell, \uffff", failure.get("message", ""))

    def test_test_that_passes_over_itself(self) -> None:
        """A test whose run() never runs it is not OK: it is counted as not run."""
        self.write(
            test_over="""
            class A(unittest.TestCase):
                def run(self, result=None):
                    return result
                def test_a(self): pass
            """
        )
        ran = self.run_suite()
        self.assertEqual("FAILED (not run=1)", ran.verdict)
        self.assertEqual(1, ran.status)

    def test_system_exit_in_a_fixture(self) -> None:
        """sys.exit in setUpClass is that class's error; its clean-ups run, and other classes."""
        self.write(
            test_exit="""
            class A(unittest.TestCase):
                @classmethod
                def setUpClass(cls):
                    cls.addClassCleanup(open, "cleaned", "w")
                    sys.exit(3)
                def test_a(self): pass
            class B(unittest.TestCase):
                def test_b(self): pass
            """
        )
        ran = self.run_suite("-j", "1")
        self.assertEqual(
            {"A.test_a": "not-run", "A.setUpClass": "error", "B.test_b": "ok"}, ran.outcomes
        )
        self.assertTrue((self.project / "cleaned").exists())

    def _unittest(self, *, whole: bool = False) -> str:
        """What plain unittest says about the project."""
        done = subprocess.run(
            [sys.executable, "-m", "unittest"],
            cwd=self.project,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ,
        )
        return done.stderr if whole else done.stderr.rstrip().rpartition("\n")[2]


def _blocks(text: str) -> list[str]:
    """The failures, without the lines that follow the last of them."""
    *blocks, last = text.split("=" * 70 + "\n")[1:]
    return [*blocks, re.split(r"\n-{70}\nRan |\nNot run:", last)[0].partition("\nNot run")[0]]


def _headings(text: str) -> list[str]:
    return re.findall(r"^(?:ERROR|FAIL): .*$", text, re.MULTILINE)
