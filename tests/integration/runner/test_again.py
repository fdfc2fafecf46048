"""What failed runs again: in the same run, or first or alone in the next one."""

from tests.integration.runner.case import RunnerTestCase

FLAKY = """
def first(name):
    try:
        open(name, "x").close()
    except FileExistsError:
        return False
    return True
class Fails(unittest.TestCase):
    @classmethod
    def setUpClass(cls): open("set-up", "a").write(f"{os.getpid()} ")
    def test_a(self):
        if first("a"): self.fail("at first")
    def test_b(self): open("b", "a").write("x")
    def test_c(self):
        for number in range(3):
            with self.subTest(number=number):
                if first(f"c{number}"): self.fail("in a subtest")
class Crashes(unittest.TestCase):
    def test_a(self):
        if first("crash"): os._exit(3)
    def test_b(self): pass
class SetUp(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if first("class"): raise RuntimeError("not ready")
    def test_a(self): pass
    def test_b(self): pass
"""
LETTERS = """
def breaks():
    if os.path.exists("broken"): raise RuntimeError("broken")
class A(unittest.TestCase):
    def test_a(self):
        note("A.a")
        breaks()
    def test_b(self): note("A.b")
class B(unittest.TestCase):
    def test_a(self): note("B.a")
class C(unittest.TestCase):
    @classmethod
    def setUpClass(cls): breaks()
    def test_a(self): note("C.a")
"""


class AgainTest(RunnerTestCase):
    """``--retries``, ``--failed`` and ``--failed-first``."""

    def test_flaky(self) -> None:
        """What passes the second time is FLAKY, whatever failed; the rest runs once; status 0."""
        self.write(test_flaky=FLAKY)
        ran = self.run_suite("-j", "2", "--retries", "1")
        self.assertEqual(("OK (flaky=5)", 0), (ran.verdict, ran.status), ran.text)
        self.assertEqual({"ok"}, set(ran.outcomes.values()))
        self.assertEqual(3, ran.text.count("AssertionError: in a subtest"))
        self.assertEqual(1, ran.text.count("FLAKY: setUpClass (test_flaky.SetUp)"))
        tags = {
            f"{case.get('classname')}.{case.get('name')}": [it.tag for it in case]
            for case in ran.report.iter("testcase")
            if len(case)
        }
        self.assertEqual(
            {
                "test_flaky.Fails.test_a": ["flakyFailure"],
                "test_flaky.Fails.test_c": ["flakyFailure"] * 3,
                "test_flaky.Crashes.test_a": ["flakyError"],
                "test_flaky.SetUp.test_a": ["flakyError"],
                "test_flaky.SetUp.test_b": ["flakyError"],
            },
            tags,
        )
        self.assertEqual("x", (self.project / "b").read_text())
        pids = (self.project / "set-up").read_text().split()
        self.assertEqual(2, len(set(pids)), "each time in a process that has not run the class")

    def test_failing_to_the_end(self) -> None:
        """A test that fails each time is one failure; -f waits for the last time."""
        self.write(
            test_fails="""
            class A(unittest.TestCase):
                def test_a(self):
                    note("x")
                    self.fail(f"round {len(open('ran').read()) // 2}")
                def test_b(self): pass
            """
        )
        ran = self.run_suite("-f", "--retries", "2", "-j", "1")
        self.assertEqual(("FAILED (failures=1)", 1), (ran.verdict, ran.status))
        self.assertIn("AssertionError: round 3", ran.text)
        [case] = (it for it in ran.report.iter("testcase") if it.get("name") == "test_a")
        messages = [(it.tag, it.get("message")) for it in case]
        rounds = [(tag, f"round {n}") for n, tag in enumerate(["rerunFailure"] * 2, 1)]
        self.assertEqual([("failure", "round 3"), *rounds], messages)

    def test_only(self) -> None:
        """What failed, with what its fixture or its import kept off, until it passes."""
        self.write(test_letters=LETTERS, test_import="import no_such_module")
        (self.project / "broken").touch()
        self.run_suite("-j", "1")
        self.assertEqual("OK", self.run_suite("test_letters.B").verdict, "other tests in between")
        ran = self.run_suite("--failed", "-j", "1")
        self.assertEqual(
            {
                "A.test_a": "error",
                "C.setUpClass": "error",
                "C.test_a": "not-run",
                "loader._FailedTest.test_import": "error",
            },
            ran.outcomes,
        )
        (self.project / "broken").unlink()
        self.write(test_import="class D(unittest.TestCase):\n    def test_d(self): pass\n")
        self.noted()
        outcomes: dict[str, str] = {}
        for number in (1, 2):  # each has its part of them
            ran = self.run_suite("--failed", "--shard", f"{number}/2")
            self.assertEqual(0, ran.status)
            outcomes |= ran.outcomes
        self.assertEqual({"A.test_a": "ok", "C.test_a": "ok", "D.test_d": "ok"}, outcomes)
        self.assertEqual(["A.a", "C.a"], sorted(self.noted()))

    def test_first(self) -> None:
        """--failed-first runs everything, in that order."""
        self.write(
            test_module="""
            def setUpModule(): pass
            class A(unittest.TestCase):
                def test_a(self): note("A.a")
            class B(unittest.TestCase):
                def test_a(self): note("B.a")
                def test_b(self):
                    note("B.b")
                    self.fail()
            """
        )
        for order in (["A.a", "B.a", "B.b"], ["B.b", "B.a", "A.a"]):
            self.run_suite("--failed-first", "test_module")
            self.assertEqual(
                order, self.noted(), "in a module its classes, and in a class its tests"
            )

    def test_nowhere_to_keep_it(self) -> None:
        """A project that cannot be written to has no record: every test runs."""
        self.write(test_letters=LETTERS)
        (self.project / ".orchestrator").touch()
        self.assertEqual(4, len(self.run_suite("--failed").outcomes))
