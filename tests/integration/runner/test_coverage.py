"""``coverage run -m orchestrator test``."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.integration.runner.case import RunnerTestCase

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
        self.assertLessEqual({4, 6, 8}, {*shop["executed_lines"]})
        self.assertNotIn(10, shop["executed_lines"])
        self.assertIn([4, 6], shop["executed_branches"])
        left = sorted(path.name for path in self.project.glob(".coverage*"))
        self.assertEqual([".coverage"], left)

    def test_patched_subprocesses(self) -> None:
        """Where coverage is configured to do it, it does, and nothing is measured twice."""
        (self.project / ".coveragerc").write_text("[run]\npatch = subprocess\n")
        self.run_suite("-j", "2", "test_shop.B", python=("-m", "coverage", "run"))
        self._coverage("combine")
        self.assertIn(8, self._report()["files"]["shop.py"]["executed_lines"])

    def _report(self) -> Any:
        self._coverage("json", "-q", "-o", "report.json")
        return json.loads((self.project / "report.json").read_text())

    def _coverage(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "coverage", *arguments]
        subprocess.run(command, cwd=self.project, check=True, capture_output=True)
