"""Selecting, ordering and showing tests."""

from __future__ import annotations

import json
import re

from tests.integration.runner.case import RunnerTestCase

LETTERS = """
def note(word):
    with open("ran", "a") as file:
        file.write(word + " ")
class A(unittest.TestCase):
    def test_one(self): note("A1")
    def test_two(self): note("A2")
    def test_three(self): note("A3")
class B(unittest.TestCase):
    def test_one(self): note("B1")
    def test_two(self): note("B2")
class C(unittest.TestCase):
    def test_one(self): note("C1")
"""


class SelectionTest(RunnerTestCase):
    """Which tests run."""

    def test_names(self) -> None:
        """Classes and methods are named as for unittest; one that does not exist is an error."""
        self.write(test_letters=LETTERS)
        ran = self.run_suite("test_letters.A.test_one", "test_letters.B", "test_letters.Nothing")
        self.assertEqual(
            {
                "A.test_one": "ok",
                "B.test_one": "ok",
                "B.test_two": "ok",
                "loader._FailedTest.Nothing": "error",
            },
            ran.outcomes,
        )

    def test_folders_and_files(self) -> None:
        """The tests of a folder are discovered under their own names; so is a file by its path."""
        self.write(test_letters=LETTERS)
        (self.project / "tests" / "unit").mkdir(parents=True)
        (self.project / "tests" / "unit" / "__init__.py").touch()
        (self.project / "tests" / "__init__.py").touch()
        path = "tests/unit/test_letters.py"
        (self.project / "test_letters.py").rename(self.project / path)
        for name in ("tests", "tests.unit", "tests/unit/", ".", path):
            with self.subTest(name=name):
                ran = self.run_suite(name)
                self.assertEqual(6, len(ran.outcomes), ran.text)
                self.assertEqual("tests.unit.test_letters.A", ran.report[0].get("name"))

    def test_package_that_says_what_its_tests_are(self) -> None:
        """A package with tests of its own stands for these, as in unittest."""
        self.write(test_letters=LETTERS)
        (self.project / "tests").mkdir()
        (self.project / "test_letters.py").rename(self.project / "tests" / "test_letters.py")
        (self.project / "tests" / "__init__.py").write_text(
            "def load_tests(loader, tests, pattern):\n"
            "    return loader.loadTestsFromName('tests.test_letters.C')\n"
        )
        self.assertEqual({"test_letters.C.test_one": "ok"}, self.run_suite("tests").outcomes)

    def test_discovery(self) -> None:
        """Discovery takes a start, a pattern and a top-level directory."""
        (self.project / "checks").mkdir()
        (self.project / "checks" / "__init__.py").touch()
        self.write(test_letters=LETTERS)
        (self.project / "test_letters.py").rename(self.project / "checks" / "check_letters.py")
        ran = self.run_suite("discover", "-s", "checks", "-p", "check_*.py", "-t", ".")
        self.assertEqual(6, len(ran.outcomes))

    def test_patterns(self) -> None:
        """-k keeps what matches any pattern; when that is nothing, nothing ran: status 5."""
        self.write(test_letters=LETTERS)
        ran = self.run_suite("-k", "two", "-k", "*.C.*")
        self.assertEqual({"A.test_two", "B.test_two", "C.test_one"}, set(ran.outcomes))
        ran = self.run_suite("-k", "nothing")
        self.assertEqual(("NO TESTS RAN", 5), (ran.verdict, ran.status))

    def test_failfast(self) -> None:
        """-f stops at the first failure; what did not run is counted."""
        self.write(
            test_fast="""
            class A(unittest.TestCase):
                def test_a(self): self.fail()
                def test_b(self): pass
            class B(unittest.TestCase):
                def test_b(self): pass
            """
        )
        ran = self.run_suite("-f", "-j", "1")
        self.assertEqual("FAILED (failures=1, not run=2)", ran.verdict)
        self.assertIn("Not run: 2 tests (-f stopped the run)", ran.text)

    def test_wrong_arguments(self) -> None:
        """A wrong command line is status 2, and says what is wrong before any test runs."""
        self.write(test_letters=LETTERS)
        for arguments, words in (
            (("-j", "0"), "expected a number of workers, or auto, not '0'"),
            (("--shard", "3/2"), "such as 2/4, not '3/2'"),
            (("--junit", "."), "expected a file, but '.' is a folder"),
            (("--logs", "test_letters.py"), "expected a folder, but 'test_letters.py' is a file"),
            (("--timeout", "-1"), "expected a number of seconds"),
            (("--shuffle", "test_letters"), "write --shuffle behind the names"),
            (("-s", ".", "test_letters"), "-s, -p and -t belong to discovery"),
        ):
            with self.subTest(arguments=arguments):
                ran = self.run_suite(*arguments)
                self.assertEqual(2, ran.status)
                self.assertIn(words, ran.text)
        self.assertFalse((self.project / "ran").exists())


class OrderTest(RunnerTestCase):
    """In which order, and where."""

    def test_fixtures_run_once(self) -> None:
        """Class and module fixtures run once, whatever the number of workers."""
        self.write(
            test_fixtures="""
            def note(word):
                with open("ran", "a") as file:
                    file.write(word + " ")
            def setUpModule(): note("module-up")
            def tearDownModule(): note("module-down")
            class A(unittest.TestCase):
                @classmethod
                def setUpClass(cls): note("A-up")
                @classmethod
                def tearDownClass(cls): note("A-down")
                def test_a(self): pass
                def test_b(self): pass
            class B(unittest.TestCase):
                @classmethod
                def setUpClass(cls): note("B-up")
                def test_b(self): pass
            def load_tests(loader, tests, pattern):
                return unittest.TestSuite([A("test_a"), B("test_b"), A("test_b")])
            """
        )
        self.assertEqual("OK", self.run_suite("-j", "3").verdict)
        self.assertEqual(
            "module-up A-up A-down B-up module-down ", (self.project / "ran").read_text()
        )

    def test_classes_run_side_by_side(self) -> None:
        """Two classes that wait for each other both pass with two workers."""
        self.write(
            test_meet="""
            def meet(mine, other):
                open(mine, "w").close()
                deadline = time.monotonic() + 30
                while not os.path.exists(other):
                    assert time.monotonic() < deadline, "the other class did not come"
                    time.sleep(0.01)
            class A(unittest.TestCase):
                def test_a(self): meet("a", "b")
            class B(unittest.TestCase):
                def test_b(self): meet("b", "a")
            """
        )
        self.assertEqual("OK", self.run_suite("-j", "2").verdict)

    def test_longest_first(self) -> None:
        """The class that took longest last time, its setUpClass included, starts first."""
        self.write(
            test_long="""
            def note(word):
                with open("ran", "a") as file:
                    file.write(word + " ")
            class A(unittest.TestCase):
                def test_a(self): note("A")
            class B(unittest.TestCase):
                @classmethod
                def setUpClass(cls): time.sleep(0.3)
                def test_b(self): note("B")
            """
        )
        self.run_suite("-j", "1")
        self.run_suite("-j", "1")
        self.assertEqual("A B B A ", (self.project / "ran").read_text())

    def test_durations_file_that_is_damaged(self) -> None:
        """A damaged cache is as good as none, and is replaced; one that cannot be is no error."""
        self.write(test_letters=LETTERS)
        (self.project / ".orchestrator").touch()
        self.assertEqual("OK", self.run_suite().verdict)
        (self.project / ".orchestrator").unlink()
        cache = self.project / ".orchestrator" / "durations.json"
        cache.parent.mkdir()
        cache.write_bytes(b'{"version": 1, "seconds": {"a": \xff')
        self.assertEqual("OK", self.run_suite().verdict)
        self.assertEqual(1, json.loads(cache.read_text())["version"])

    def test_shuffle(self) -> None:
        """--shuffle mixes classes, and tests in them; its printed seed repeats the order."""
        self.write(test_letters=LETTERS)
        found = re.search(r"--shuffle=(\d+)", self.run_suite("-j", "1", "--shuffle").text)
        assert found is not None
        order = self._order()
        self.run_suite("-j", "1", found[0])
        self.assertEqual(order, self._order())
        self.run_suite("-j", "1", "--shuffle=2")
        mixed = self._order()
        self.assertEqual(3, len(re.sub(r"(.)\1+", r"\1", re.sub(r"\d| ", "", mixed))), mixed)
        self.assertNotEqual("A1 A3 A2 B1 B2 C1 ", mixed)

    def test_shards(self) -> None:
        """The shards together run every test once; one for which no class is left is no failure."""
        self.write(test_letters=LETTERS)
        for number in range(1, 5):
            ran = self.run_suite("--shard", f"{number}/4")
            self.assertEqual(0, ran.status)
            self.assertRegex(ran.text, rf"Shard {number}/4: [01] of 3 classes \(plan \w+\)")
        self.assertEqual("A1 A2 A3 B1 B2 C1", " ".join(sorted(self._order().split())))

    def _order(self) -> str:
        path = self.project / "ran"
        order = path.read_text()
        path.unlink()
        return order


class DisplayTest(RunnerTestCase):
    """What is shown."""

    def test_verbose(self) -> None:
        """-v has a line for each test with its docstring; --locals, --durations as in unittest."""
        self.write(
            test_doc="""
            class A(unittest.TestCase):
                def test_a(self):
                    '''What it is.'''
                def test_slow(self):
                    time.sleep(0.05)
                    answer = 42
                    self.fail()
            """
        )
        ran = self.run_suite("-v", "--locals", "--durations", "2")
        self.assertIn("test_a (test_doc.A.test_a)\nWhat it is. ... ok\n", ran.text)
        self.assertIn("answer = 42", ran.text)
        self.assertRegex(ran.text, r"Slowest test durations\n-+\n0\.\d+s +test_slow \(")
        self.assertEqual("", ran.stdout)

    def test_quiet(self) -> None:
        """With -q there is nothing but the failures and the figures; without, a dot a test."""
        self.write(test_letters=LETTERS)
        summary = r"-{70}\nRan 6 tests in [\d.]+s\n\nOK\n\Z"
        self.assertRegex(self.run_suite("-q").text, rf"\A{summary}")
        self.assertRegex(self.run_suite().text, rf"\A\.{{6}}\n+{summary}")

    def test_report_that_cannot_be_written(self) -> None:
        """A JUnit file that cannot be written is told, and fails the run."""
        self.write(test_letters=LETTERS)
        (self.project / "file").touch()
        ran = self.run_suite("--junit", "file/junit.xml")
        self.assertEqual(1, ran.status)
        self.assertIn("--junit file/junit.xml could not be written", ran.text)
