"""Suites that run their tests in ways of their own: everything counts as under plain unittest."""

import re

from tests.integration.runner.case import RunnerTestCase


class LikeUnittestTest(RunnerTestCase):
    """Each suite is run by ``python -m unittest``, too."""

    def test_each_end_counts(self) -> None:
        """Tests that run twice, or clones; grown suites, suites with a run of their own."""
        self.write(
            test_clones="""
            import copy
            class A(unittest.TestCase):
                scenario = None
                def run(self, result=None):
                    if self.scenario is not None:
                        return super().run(result)
                    for scenario in ("one", "two"):
                        clone = copy.copy(self)
                        clone.scenario, clone._cleanups = scenario, []
                        clone.run(result)
                def id(self): return f"{super().id()}({self.scenario})"
                def __str__(self): return self.id()
                def test_a(self): self.assertEqual("one", self.scenario)
                def test_b(self): pass
            """,
            test_grows="""
            class Late(unittest.TestCase):
                @classmethod
                def tearDownClass(cls): raise RuntimeError("not tidy")
                def test_a(self): SUITE.addTest(Later("test_a"))
                def test_b(self): pass
            class Later(unittest.TestCase):
                def test_a(self): self.fail("later")
            class A(unittest.TestCase):
                @classmethod
                def setUpClass(cls): SUITE.addTest(Late("test_b"))
                def test_a(self): SUITE.addTest(unittest.TestSuite([Late("test_a")]))
                def test_b(self): pass
            SUITE = unittest.TestSuite([A("test_a"), A("test_b")])
            def load_tests(loader, tests, pattern):
                return SUITE
            """,
            test_lists="""
            class Retried(unittest.TestCase):
                rounds = 0
                def run(self, result=None):
                    super().run(result)
                    if result.failures:
                        result.failures.pop()
                        super().run(result)
                def test_a(self):
                    Retried.rounds += 1
                    self.assertEqual(2, self.rounds)
            class Late(unittest.TestCase):
                def run(self, result=None):
                    type(self).result = result
                    return super().run(result)
                def test_a(self): pass
                @classmethod
                def tearDownClass(cls): cls.result.failures.append((cls("test_a"), "late"))
            """,
            test_suites="""
            class Ready(unittest.TestSuite):
                def run(self, result, debug=False):
                    print("suite begins")
                    super().run(result, debug)
                    print("suite ends", result.wasSuccessful())
                    return result
            class A(unittest.TestCase):
                def test_a(self): self.fail("no")
            class B(unittest.TestCase):
                @classmethod
                def setUpClass(cls): raise RuntimeError("not ready")
                def test_a(self): pass
            def load_tests(loader, tests, pattern):
                load = loader.loadTestsFromTestCase
                return unittest.TestSuite([Ready([load(A), load(B)]), A("test_a")])
            """,
            test_things='''
            import doctest
            def works(): pass
            def fails(): raise RuntimeError("broken")
            def documented():
                """
                >>> 1 + 1
                3
                """
            def load_tests(loader, tests, pattern):
                functions = map(unittest.FunctionTestCase, (works, fails))
                return unittest.TestSuite([*functions, doctest.DocTestSuite(__name__)])
            ''',
            test_twice="""
            class A(unittest.TestCase):
                def run(self, result=None):
                    for self.backend in ("sqlite", "postgres"):
                        super().run(result)
                def test_a(self): self.assertEqual("sqlite", self.backend)
                def test_b(self):
                    for number in range(3):
                        with self.subTest(number=number):
                            self.assertNotEqual(("postgres", 1), (self.backend, number))
                @unittest.skip("no")
                def test_c(self): pass
                @unittest.expectedFailure
                def test_d(self): self.assertEqual("sqlite", self.backend)
            """,
        )
        outcomes = self._assert_the_same("-v")
        self.assertEqual("failure", outcomes["A.test_a(two)"])

    def test_patches_stay_with_the_tests(self) -> None:
        """Whatever a class replaces for its life, the runner goes on without it."""
        self.write(
            test_patches="""
            from unittest import mock
            NAMES = [
                "os.read", "os.write", "os._exit", "os.getpid", "time.monotonic", "time.sleep",
                "select.select", "json.dumps", "json.loads", "json.JSONEncoder.default",
                "socket.socket.close", "threading.Thread.start", "signal.signal", "copy.copy",
                "dataclasses.replace", "contextlib.suppress", "functools.partial", "re.compile",
                "sys.stdout", "sys.stderr", "builtins.open",
            ]
            def made(name):
                def set_up(cls):
                    patch = mock.patch(name, mock.Mock(side_effect=RuntimeError(name)))
                    patch.start()
                    cls.addClassCleanup(patch.stop)
                body = {"setUpClass": classmethod(set_up), "__module__": __name__}
                body |= {f"test_{letter}": lambda self: None for letter in "ab"}
                return type(name.replace(".", "_"), (unittest.TestCase,), body)
            globals().update((cls.__name__, cls) for cls in map(made, NAMES))
            """
        )
        self._assert_the_same("-v")

    def test_names_that_fixtures_make(self) -> None:
        """A test that can tell its name only while it runs is collected all the same."""
        self.write(
            test_named="""
            class A(unittest.TestCase):
                def setUp(self): self.name = "set up"
                def __str__(self): return self.name
                def id(self): return self.name
                def test_a(self): pass
                def test_b(self): self.fail("no")
            """
        )
        self._assert_the_same()

    def test_a_folder_that_is_gone(self) -> None:
        """A class may leave its worker in a folder that is gone; others run on there."""
        self.write(
            test_gone='''
            import doctest, tempfile
            def documented():
                """
                >>> 1 + 1
                2
                """
            class A(unittest.TestCase):
                def test_a(self):
                    with tempfile.TemporaryDirectory() as folder:
                        os.chdir(folder)
                def test_b(self): pass
            def load_tests(loader, tests, pattern):
                return unittest.TestSuite([tests, doctest.DocTestSuite(__name__)])
            '''
        )
        ran = self.run_suite("-j", "1")
        self.assertEqual("OK", ran.verdict, ran.text)
        self.assertIn("DocTestCase (test_gone.py).test_gone.documented", ran.outcomes)

    def _assert_the_same(self, *options: str) -> dict[str, str]:
        """Run the project both ways and compare; the outcomes of ours."""
        done = self.run_unittest(*options)
        ran = self.run_suite("-j", "2")
        self.assertIn("\nRan ", done.stderr)
        self.assertEqual(_facts(done.stderr, done.returncode), _facts(ran.text, ran.status))
        self.assertEqual(done.stdout, ran.stdout)
        return ran.outcomes


def _facts(text: str, status: int) -> tuple[object, ...]:
    """What a report says, without what differs from run to run."""
    ran = re.findall(r"^Ran (\d+) test", text, re.MULTILINE)
    headings = re.findall(r"^(?:ERROR|FAIL|UNEXPECTED SUCCESS): .*$", text, re.MULTILINE)
    return ran, sorted(headings), text.rstrip().rpartition("\n")[2], status
