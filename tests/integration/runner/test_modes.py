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
        """Modules, classes and methods are named as for unittest."""
        self.write(test_letters=LETTERS)
        ran = self.run_suite("test_letters.A.test_one", "test_letters.B")
        self.assertEqual({"A.test_one": "ok", "B.test_one": "ok", "B.test_two": "ok"}, ran.outcomes)

    def test_path_of_a_file(self) -> None:
        """A file is named by its path."""
        self.write(test_letters=LETTERS)
        (self.project / "tests").mkdir()
        (self.project / "test_letters.py").rename(self.project / "tests" / "test_letters.py")
        self.assertEqual("OK", self.run_suite("tests/test_letters.py").verdict)

    def test_path_of_a_folder(self) -> None:
        """The tests of a folder are discovered, in a package under its own name."""
        self.write(test_letters=LETTERS)
        (self.project / "tests").mkdir()
        (self.project / "tests" / "__init__.py").touch()
        (self.project / "test_letters.py").rename(self.project / "tests" / "test_letters.py")
        ran = self.run_suite("tests/")
        self.assertEqual(6, len(ran.outcomes))
        self.assertEqual("tests.test_letters.A", ran.report[0].get("name"))

    def test_folder_by_its_name(self) -> None:
        """A folder is named like a package, too; unittest would find nothing in it."""
        self.write(test_letters=LETTERS)
        (self.project / "tests" / "unit").mkdir(parents=True)
        (self.project / "tests" / "unit" / "__init__.py").touch()
        (self.project / "tests" / "__init__.py").touch()
        (self.project / "test_letters.py").rename(
            self.project / "tests" / "unit" / "test_letters.py"
        )
        for name in ("tests", "tests.unit", "."):
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

    def test_discovery_by_place(self) -> None:
        """Start and pattern may stand behind discover without their options."""
        (self.project / "checks").mkdir()
        self.write(test_letters=LETTERS)
        (self.project / "test_letters.py").rename(self.project / "checks" / "check_letters.py")
        self.assertEqual("OK", self.run_suite("discover", "checks", "check_*.py").verdict)

    def test_patterns(self) -> None:
        """-k keeps what matches any pattern."""
        self.write(test_letters=LETTERS)
        ran = self.run_suite("-k", "two", "-k", "*.C.*")
        self.assertEqual({"A.test_two", "B.test_two", "C.test_one"}, set(ran.outcomes))

    def test_pattern_that_matches_nothing(self) -> None:
        """When -k leaves nothing, nothing ran: status 5."""
        self.write(test_letters=LETTERS)
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

    def test_name_that_does_not_exist(self) -> None:
        """A name that cannot be found is one error, as in unittest."""
        self.write(test_letters=LETTERS)
        ran = self.run_suite("test_letters.Nothing")
        self.assertEqual(("FAILED (errors=1)", 1), (ran.verdict, ran.status))

    def test_wrong_arguments(self) -> None:
        """A wrong command line is status 2, and says what is wrong before any test runs."""
        self.write(test_letters=LETTERS)
        for arguments, words in (
            (("-j", "none"), "expected a number of workers, or auto, not 'none'"),
            (("-j", "0"), "expected a number of workers"),
            (("--shard", "3/2"), "such as 2/4, not '3/2'"),
            (("--shard", "0/2"), "such as 2/4, not '0/2'"),
            (("--shard", "half"), "such as 2/4, not 'half'"),
            (("--junit", "."), "expected a file, but '.' is a folder"),
            (("--timeline", "."), "expected a file, but '.' is a folder"),
            (("--logs", "test_letters.py"), "expected a folder, but 'test_letters.py' is a file"),
            (("--timeout", "-1"), "expected a number of seconds"),
            (("--shuffle", "test_letters"), "write --shuffle behind the names"),
            (("-s", ".", "test_letters"), "-s, -p and -t belong to discovery"),
            (("--no-such-option",), "unrecognized arguments"),
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
        """A damaged cache is as good as none, and is replaced."""
        self.write(test_letters=LETTERS)
        cache = self.project / ".orchestrator" / "durations.json"
        cache.parent.mkdir()
        cache.write_bytes(b'{"version": 1, "seconds": {"a": \xff')
        self.assertEqual("OK", self.run_suite().verdict)
        self.assertEqual(1, json.loads(cache.read_text())["version"])

    def test_cache_that_cannot_be_written(self) -> None:
        """A project where nothing can be written runs all the same."""
        self.write(test_letters=LETTERS)
        (self.project / ".orchestrator").write_text("a file where a folder should be")
        self.assertEqual("OK", self.run_suite().verdict)

    def test_shuffle(self) -> None:
        """--shuffle prints its seed, and the seed repeats the order."""
        self.write(test_letters=LETTERS)
        ran = self.run_suite("-j", "1", "--shuffle")
        first = self._order()
        found = re.search(r"--shuffle=(\d+)", ran.text)
        assert found is not None
        self.run_suite("-j", "1", f"--shuffle={found[1]}")
        self.assertEqual(first, self._order())
        self.assertEqual("OK", ran.verdict)

    def test_shuffle_keeps_classes_together(self) -> None:
        """Classes and the tests in them change places; a class is not torn apart."""
        self.write(test_letters=LETTERS)
        orders = set()
        for seed in range(4):
            self.run_suite("-j", "1", f"--shuffle={seed}")
            order = self._order()
            orders.add(order)
            classes = re.sub(r"(.)\1+", r"\1", re.sub(r"\d| ", "", order))
            self.assertEqual(3, len(classes), order)
        self.assertGreater(len(orders), 1)

    def test_shards(self) -> None:
        """The shards of a suite together run every test once, run after run."""
        self.write(test_letters=LETTERS)
        for _ in range(2):
            for number in range(1, 3):
                ran = self.run_suite("--shard", f"{number}/2")
                self.assertEqual("OK", ran.verdict)
                self.assertRegex(ran.text, rf"Shard {number}/2: \d of 3 classes \(plan \w+\)")
            self.assertEqual("A1 A2 A3 B1 B2 C1", " ".join(sorted(self._order().split())))

    def test_shard_without_a_class(self) -> None:
        """A shard for which no class is left is no failure: the others run them all."""
        self.write(test_letters=LETTERS)
        statuses = [self.run_suite("--shard", f"{number}/5").status for number in range(1, 6)]
        self.assertEqual([0] * 5, statuses)
        self.assertEqual(6, len(self._order().split()))

    def _order(self) -> str:
        path = self.project / "ran"
        order = path.read_text()
        path.unlink()
        return order


class DisplayTest(RunnerTestCase):
    """What is shown."""

    def test_dots(self) -> None:
        """Without options there is a character for each test."""
        self.write(test_letters=LETTERS)
        self.assertIn("......\n", self.run_suite().text)

    def test_verbose(self) -> None:
        """With -v there is a line for each test, with its docstring."""
        self.write(
            test_doc="""
            class A(unittest.TestCase):
                def test_a(self):
                    '''What it is.'''
            """
        )
        text = self.run_suite("-v").text
        self.assertIn("test_a (test_doc.A.test_a)\nWhat it is. ... ok\n", text)

    def test_quiet(self) -> None:
        """With -q there is nothing but the failures and the figures."""
        self.write(test_letters=LETTERS)
        self.assertRegex(self.run_suite("-q").text, r"\A-{70}\nRan 6 tests in [\d.]+s\n\nOK\n\Z")

    def test_locals(self) -> None:
        """With --locals tracebacks show local variables."""
        self.write(
            test_locals="""
            class A(unittest.TestCase):
                def test_a(self):
                    answer = 42
                    self.fail()
            """
        )
        self.assertIn("answer = 42", self.run_suite("--locals").text)

    def test_durations(self) -> None:
        """With --durations the slowest tests are listed, on every Python."""
        self.write(
            test_slow="""
            class A(unittest.TestCase):
                def test_quick(self): pass
                def test_slow(self): time.sleep(0.05)
            """
        )
        text = self.run_suite("--durations", "2").text
        self.assertRegex(text, r"Slowest test durations\n-+\n0\.\d+s +test_slow \(")

    def test_nothing_on_stdout(self) -> None:
        """The report is on stderr, as unittest's is."""
        self.write(test_letters=LETTERS)
        self.assertEqual("", self.run_suite().stdout)

    def test_report_that_cannot_be_written(self) -> None:
        """A JUnit file that cannot be written is told, and fails the run."""
        self.write(test_letters=LETTERS)
        (self.project / "file").touch()
        ran = self.run_suite("--junit", "file/junit.xml")
        self.assertEqual(1, ran.status)
        self.assertIn("--junit file/junit.xml could not be written", ran.text)
