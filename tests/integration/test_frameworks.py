"""The recipes of tests/examples that are projects of their own, run as their users run them."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.processes import ProcessTestCase

EXAMPLES = Path(__file__).parents[1] / "examples"


class FrameworksTest(ProcessTestCase):
    """Each passes with the framework's own command, and leaves nothing behind."""

    def assert_passes(self, project: str, *argv: str, told: str) -> None:
        """Run a command in a copy of a project."""
        shutil.copytree(EXAMPLES / project, self.folder, dirs_exist_ok=True)
        status, output = self.run_python(*argv)
        self.assertEqual(0, status, output)
        self.assertIn(told, output)

    def test_django(self) -> None:
        """`manage.py test`, in one process and in parallel, and pytest-django."""
        for argv, told in (
            (("manage.py", "test"), "Ran 3 tests"),
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
