"""What ci/run_tests.py counts, shown by running it on small test modules."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from textwrap import dedent, indent

ROOT = Path(__file__).resolve().parents[3]


class RunTestsTest(unittest.TestCase):
    """Each test writes one module and runs a copy of the script beside it."""

    def run_script(self, body: str, *options: str) -> tuple[str, bool]:
        """Return the last line of a run over a class with `body`, and whether it succeeded."""
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        root = Path(scratch.name)
        (root / "ci").mkdir()
        (root / "tests").mkdir()
        shutil.copy(ROOT / "ci" / "run_tests.py", root / "ci")
        (root / "tests" / "test_it.py").write_text(
            "import unittest\n\nclass T(unittest.TestCase):\n" + indent(dedent(body), "    ")
        )
        done = subprocess.run(
            [sys.executable, "ci/run_tests.py", *options],
            check=False,
            capture_output=True,
            text=True,
            cwd=root,
        )
        return done.stdout.splitlines()[-1], done.returncode == 0

    def test_counts_each_outcome(self) -> None:
        """A test that passes, one that fails, one in error and one skipped count one each."""
        body = """
            def test_pass(self): pass
            def test_fail(self): self.fail()
            def test_error(self): raise ValueError
            def test_skip(self): self.skipTest("why")
        """
        self.assertEqual(("1 passed, 2 failed, 1 skipped", False), self.run_script(body))

    def test_success(self) -> None:
        """A run without failures succeeds."""
        body = "def test_pass(self): pass"
        self.assertEqual(("1 passed, 0 failed, 0 skipped", True), self.run_script(body))

    def test_failing_subtests_are_one_test(self) -> None:
        """A test with several failing sub-tests has failed once."""
        body = """
            def test_parts(self):
                for part in range(3):
                    with self.subTest(part=part):
                        self.assertEqual(0, part)
        """
        self.assertEqual(("0 passed, 1 failed, 0 skipped", False), self.run_script(body))

    def test_cleanup_error_fails_the_test(self) -> None:
        """A test whose clean-up raises has failed."""
        body = "def test_it(self): self.addCleanup(int, 'x')"
        self.assertEqual(("0 passed, 1 failed, 0 skipped", False), self.run_script(body))

    def test_expected_failure_passes(self) -> None:
        """An expected failure passes."""
        body = """
            @unittest.expectedFailure
            def test_it(self): self.fail()
        """
        self.assertEqual(("1 passed, 0 failed, 0 skipped", True), self.run_script(body))

    def test_unexpected_success_fails(self) -> None:
        """An unexpected success fails."""
        body = """
            @unittest.expectedFailure
            def test_it(self): pass
        """
        self.assertEqual(("0 passed, 1 failed, 0 skipped", False), self.run_script(body))

    def test_class_set_up_error_is_one_failure(self) -> None:
        """A class whose set-up raises has failed once, and its tests did not run."""
        body = """
            @classmethod
            def setUpClass(cls): raise ValueError
            def test_one(self): pass
            def test_two(self): pass
        """
        self.assertEqual(("0 passed, 1 failed, 0 skipped", False), self.run_script(body))

    def test_class_tear_down_error_is_one_failure(self) -> None:
        """A class whose tear-down raises adds one failure to what its tests gave."""
        body = """
            @classmethod
            def tearDownClass(cls): raise ValueError
            def test_one(self): pass
        """
        self.assertEqual(("1 passed, 1 failed, 0 skipped", False), self.run_script(body))

    def test_module_that_cannot_be_imported_fails(self) -> None:
        """A module that cannot be imported has failed."""
        self.assertEqual(("0 passed, 1 failed, 0 skipped", False), self.run_script("1 / 0"))

    def test_module_that_skips_itself_is_skipped(self) -> None:
        """A module that raises SkipTest while it is imported counts as one skipped."""
        body = "raise unittest.SkipTest('why')"
        self.assertEqual(("0 passed, 0 failed, 1 skipped", True), self.run_script(body))

    def test_nothing_run_is_a_failure(self) -> None:
        """A run that found no test does not succeed."""
        body = "def test_it(self): pass"
        expected = ("0 passed, 0 failed, 0 skipped", False)
        self.assertEqual(expected, self.run_script(body, "-k", "other"))

    def test_name_selects_one_test(self) -> None:
        """A dotted name selects one test."""
        body = """
            def test_one(self): pass
            def test_two(self): self.fail()
        """
        expected = ("1 passed, 0 failed, 0 skipped", True)
        self.assertEqual(expected, self.run_script(body, "tests.test_it.T.test_one"))
