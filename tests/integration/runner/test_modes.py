"""Selecting, ordering and showing tests."""

import re
import subprocess
import sys
from unittest.mock import patch

from tests.integration.runner.case import RunnerTestCase

LETTERS = """
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


class ModesTest(RunnerTestCase):
    """Which tests run, in which order and where, and what is shown."""

    def test_names_folders_and_files(self) -> None:
        """As for unittest; a folder's tests and a file's have their own names; the rest is told."""
        self.write(test_letters=LETTERS)
        self._move_letters("tests/unit/test_letters.py")
        (self.project / "tests/unit/test_letters").mkdir()  # what can be imported is no folder
        places = ("tests", "tests.unit", "tests/unit/", ".", "tests/unit/test_letters.py")
        names = [f"tests.unit.test_letters.{it}" for it in ("A.test_one", "B", "Nothing")]
        ran = self.run_suite(*places, *names)
        often, more = "ok, ok, ok, ok, ok", "ok, ok, ok, ok, ok, ok"
        self.assertEqual(
            {
                "unit.test_letters.A.test_one": more,
                "unit.test_letters.A.test_three": often,
                "unit.test_letters.A.test_two": often,
                "unit.test_letters.B.test_one": more,
                "unit.test_letters.B.test_two": more,
                "unit.test_letters.C.test_one": often,
                "loader._FailedTest.Nothing": "error",
            },
            ran.outcomes,
        )

    def test_discovery_and_patterns(self) -> None:
        """Discovery has a start, a pattern and a top; -k keeps what matches any pattern."""
        self.write(test_letters=LETTERS)
        self._move_letters("checks/check_letters.py")
        discovery = ("discover", "-s", "checks", "-p", "check_*.py", "-t", ".")
        ran = self.run_suite(*discovery, "-k", "two", "-k", "*.C.*")
        names = {name.removeprefix("check_letters.") for name in ran.outcomes}
        self.assertEqual({"A.test_two", "B.test_two", "C.test_one"}, names)

    def test_nothing_collected(self) -> None:
        """No test at all is status 5 on every Python."""
        self.write(test_letters=LETTERS)
        ran = self.run_suite("-k", "nothing")
        self.assertEqual(("NO TESTS RAN", 5), (ran.verdict, ran.status))

    def test_failfast_and_buffer(self) -> None:
        """-f stops at the first failure, and counts the rest; -b shows what failing tests say."""
        self.write(
            test_fast="""
            class A(unittest.TestCase):
                def test_a(self): print("kept to itself")
                def test_b(self):
                    print("shown")
                    self.fail()
                def test_c(self): pass
            class B(unittest.TestCase):
                def test_b(self): pass
            """
        )
        ran = self.run_suite("-f", "-b", "-j", "1")
        self.assertEqual("FAILED (failures=1, not run=2)", ran.verdict)
        self.assertIn("Not run: 2 tests (-f stopped the run)", ran.text)
        self.assertNotIn("kept to itself", ran.text)
        self.assertIn("Stdout:\nshown", ran.text)

    def _move_letters(self, path: str) -> None:
        place = self.project / path
        place.parent.mkdir(parents=True)
        (self.project / "test_letters.py").rename(place)
        for folder in place.relative_to(self.project).parents[:-1]:
            (self.project / folder / "__init__.py").touch()

    def test_fixtures_run_once(self) -> None:
        """Class and module fixtures run once, whatever the number of workers."""
        self.write(
            test_fixtures="""
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
        self.assertEqual(["module-up", "A-up", "A-down", "B-up", "module-down"], self.noted())

    def test_shuffle(self) -> None:
        """--shuffle mixes classes, and tests in them; its printed seed repeats the order."""
        self.write(test_letters=LETTERS)
        ran = self.run_suite("-j", "1", "--shuffle=2")
        mixed = self.noted()
        classes = re.sub(r"(.)\1+", r"\1", "".join(word[0] for word in mixed))
        self.assertEqual(3, len(classes), mixed)
        self.assertNotEqual(["A1", "A3", "A2", "B1", "B2", "C1"], mixed)
        found = re.search(r"--shuffle=(\d+)", ran.text)
        assert found is not None
        self.run_suite("-j", "1", found[0])
        self.assertEqual(mixed, self.noted())

    def test_shards(self) -> None:
        """The shards together run every test once; one for which no class is left is no failure."""
        self.write(test_letters=LETTERS)
        for number in (1, 2):
            ran = self.run_suite("--shard", f"{number}/2", "test_letters.A")
            self.assertEqual(0, ran.status)
            self.assertRegex(ran.text, rf"Shard {number}/2: [01] of 1 classes \(plan \w+\)")
        self.assertEqual(["A1", "A2", "A3"], sorted(self.noted()))

    def test_few_descriptors(self) -> None:
        """Where no more workers can be started, those that there are run everything."""
        self.write(test_letters=LETTERS)
        few = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (28, 28)); "
        few += "from orchestrator.cli import main; sys.exit(main(['test', *sys.argv[1:]]))"
        with self.started("-j", "3", command=["-c", few]) as running:
            ran = self.ended(running)
        self.assertEqual("OK", ran.verdict, ran.text)
        self.assertRegex(ran.text, "No more workers can be started: .+; [12] of 3 run the tests")
        self.assertEqual(["A1", "A2", "A3", "B1", "B2", "C1"], sorted(self.noted()))

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

    def test_much_output(self) -> None:
        """What classes print is shown, and not kept, where no report is to have it."""
        self.write(
            test_much="""
            class Test(unittest.TestCase):
                def test_a(self): os.write(1, b"y" * (3 << 20))
            for n in range(40):
                globals()[f"T{n}"] = type(f"T{n}", (Test,), {"__module__": __name__})
            """
        )
        code = "from orchestrator.cli import main; main(['test']); "
        code += "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=self.project, capture_output=True, check=True)
        self.assertIn(b"Ran 41 tests", done.stderr)
        self.assertEqual(41 * (3 << 20), done.stdout.count(b"y"))
        self.assertLess(int(done.stdout.rpartition(b"y")[2]), 100 << 10, "KiB")

    def test_progress(self) -> None:
        """What takes a while is told while it happens, also where the path of TMPDIR is long."""
        (folder := self.project / ("long" * 30)).mkdir()
        self.write(
            test_slow="""
            from orchestrator.progress import tell
            class A(unittest.TestCase):
                @classmethod
                def setUpClass(cls):
                    tell("db", "pulling, 0 of 80 MB")
                    tell("db", "pulling, 1 of 80 MB")
                    while not os.path.exists("go"):
                        time.sleep(0.01)
                    tell("db", "pulled in 9 s", over=True)
                def test_a(self): pass
            """
        )
        with patch.dict("os.environ", TMPDIR=str(folder)), self.started() as running:
            self.wait_for_note(running, "db: pulling, 0 of 80 MB")
            (self.project / "go").touch()
            text = self.ended(running).text
        self.assertIn("db: pulled in 9 s\n", text)
        self.assertNotIn("1 of 80 MB", text)
