"""Suites that run their tests in ways of their own: everything counts as under plain unittest."""

from __future__ import annotations

import re

from tests.integration.runner.case import RunnerTestCase


class LikeUnittestTest(RunnerTestCase):
    """Each suite is run by ``python -m unittest``, too."""

    def test_each_end_counts(self) -> None:
        """Tests that run twice, run clones of themselves or others, or grow the running suite."""
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
            test_inner="""
            class Inner(unittest.TestCase):
                def test_a(self): self.fail("inner")
                def test_b(self): pass
            class Broken(Inner):
                @classmethod
                def setUpClass(cls): raise RuntimeError("not ready")
            class A(unittest.TestCase):
                def run(self, result=None):
                    self.result = result
                    return super().run(result)
                def test_a(self): Inner("test_a").run(self.result)
                def test_b(self):
                    unittest.TestSuite([Inner("test_b"), Broken("test_a")]).run(self.result)
                def test_c(self):
                    Inner("test_b").run(self.result)
                    self.fail("outer")
            def load_tests(loader, tests, pattern):
                return loader.loadTestsFromTestCase(A)
            """,
            test_things='''
            import doctest
            class Thing:
                failureException = AssertionError
                def countTestCases(self): return 1
                def id(self): return "thing"
                def shortDescription(self): return None
                def __str__(self): return "thing"
                def __call__(self, result):
                    result.startTest(self)
                    try: raise ValueError("broken")
                    except ValueError: result.addError(self, sys.exc_info())
                    result.stopTest(self)
            def works(): pass
            def fails(): raise RuntimeError("broken")
            def documented():
                """
                >>> 1 + 1
                3
                """
            def load_tests(loader, tests, pattern):
                functions = map(unittest.FunctionTestCase, (works, fails))
                return unittest.TestSuite([Thing(), *functions, doctest.DocTestSuite(__name__)])
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
        outcomes = self._assert_the_same()
        self.assertEqual("failure", outcomes["A.test_a(two)"])

    def test_result_in_other_hands(self) -> None:
        """Tests and fixtures that put into the result's lists, take out of them, or look there."""
        self.write(
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
            class Copied(unittest.TestCase):
                def run(self, result=None):
                    own = unittest.TestResult()
                    super().run(own)
                    result.testsRun += own.testsRun
                    result.failures.extend(own.failures)
                def test_a(self): self.fail("copied")
                def test_b(self): pass
            class Looking(unittest.TestCase):
                def tearDown(self):
                    result = self._outcome.result
                    failed = any(test is self for test, _ in result.failures + result.errors)
                    print(self._testMethodName, failed)
                def test_a(self): self.fail("seen")
                def test_b(self): pass
            class Kept(unittest.TestCase):
                def run(self, result=None):
                    type(self).result = result
                    return super().run(result)
                def test_a(self): pass
            class Failures(Kept):
                @classmethod
                def tearDownClass(cls): cls.result.failures.append((cls("test_a"), "late"))
            class Errors(Kept):
                @classmethod
                def tearDownClass(cls): cls.result.errors.append((cls("test_a"), "late"))
            class Unexpected(Kept):
                @classmethod
                def tearDownClass(cls): cls.result.unexpectedSuccesses.append(cls("test_a"))
            class Called(Kept):
                @classmethod
                def tearDownClass(cls): cls.result.addUnexpectedSuccess(cls("test_a"))
            class AtTheEnd(Kept):
                def test_a(self):
                    self.result.stopTestRun = lambda: self.result.errors.append((self, "end"))
            """
        )
        self._assert_the_same()

    def test_suites_of_their_own_making(self) -> None:
        """A suite with a run() of its own runs whole: what it does, leaves out or makes up."""
        self.write(
            test_suites="""
            class Ready(unittest.TestSuite):
                def run(self, result, debug=False):
                    print("suite begins")
                    super().run(result, debug)
                    print("failures", len(result.failures), result.wasSuccessful())
                    return result
            class First(unittest.TestSuite):
                def run(self, result, debug=False):
                    next(iter(self))(result)
            class MadeUp(unittest.TestSuite):
                def __call__(self, result):
                    A("test_b")(result)
            class A(unittest.TestCase):
                def test_a(self): pass
                def test_b(self): self.fail("no")
            class B(unittest.TestCase):
                @classmethod
                def setUpClass(cls): raise RuntimeError("not ready")
                def test_a(self): pass
            class C(unittest.TestCase):
                @classmethod
                def setUpClass(cls): raise RuntimeError("no fixtures in a BaseTestSuite")
                def test_a(self): pass
            def load_tests(loader, tests, pattern):
                load = loader.loadTestsFromTestCase
                return unittest.TestSuite([
                    Ready([load(A), load(B)]), First(load(A)), MadeUp(), MadeUp(),
                    unittest.BaseTestSuite(load(C)), A("test_b"),
                ])
            """
        )
        self._assert_the_same()

    def test_patches_stay_with_the_tests(self) -> None:
        """Whatever a class replaces for its life, the runner goes on without it."""
        self.write(
            test_patches="""
            import importlib
            from unittest import mock
            PLACES = (
                "os", "time", "select", "json", "json.encoder", "json.decoder", "socket",
                "threading", "signal", "copy", "dataclasses", "contextlib", "functools", "re",
            )
            NAMES = [
                f"{place}.{name}"
                for place in PLACES
                for name, value in vars(importlib.import_module(place)).items()
                if callable(value) and not isinstance(value, type) and not name.startswith("_")
            ]
            NAMES += ["json.JSONEncoder.iterencode", "json.JSONEncoder.default", "os._exit"]
            NAMES += ["socket.socket.close", "sys.stdout", "sys.stderr", "builtins.open"]
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
        self._assert_the_same()

    def test_when_a_test_is_over(self) -> None:
        """A finished test is let go; what its thread puts into the result later is told."""
        self.write(
            test_late="""
            import threading
            over, told = threading.Event(), threading.Event()
            class A(unittest.TestCase):
                def run(self, result=None):
                    self.result = result
                    return super().run(result)
                def test_a(self):
                    def late():
                        over.wait(60)
                        self.result.failures.append((self, "late"))
                        told.set()
                    threading.Thread(target=late).start()
            class B(unittest.TestCase):
                def test_b(self):
                    over.set()
                    told.wait(60)
            """,
            test_memory="""
            import weakref
            class A(unittest.TestCase):
                before = []
                def setUp(self):
                    gone = [test() is None for test in self.before]
                    self.before.append(weakref.ref(self))
                    self.assertTrue(all(gone), gone)
                def test_a(self): pass
                def test_b(self): self.skipTest("no")
                def test_c(self):
                    with self.subTest("one"): pass
                @unittest.expectedFailure
                def test_d(self): self.fail()
                def test_e(self): self.fail("as it should")
                def test_f(self): pass
            def load_tests(loader, tests, pattern):
                return unittest.TestSuite([tests, A("test_f")])
            """,
        )
        self.assertEqual(
            "FAILED (failures=2, skipped=1, expected failures=1)", self.run_suite("-j", "1").verdict
        )

    def test_folders_called_like_modules(self) -> None:
        """A name that can be imported is no folder, whatever tests have made since."""
        package = self.project / "pkg"
        package.mkdir()
        (package / "__init__.py").touch()
        self.write(
            test_a="""
            class A(unittest.TestCase):
                def test_a(self):
                    for name in ("pkg.test_a", "pkg.test_a.B", "pkg/test_a"):
                        os.makedirs(name, exist_ok=True)
                    os._exit(0)  # the rest runs in a worker that sees the folders
                def test_b(self): self.fail("told")
            class B(unittest.TestCase):
                def test_b(self): self.fail("told")
            """
        )
        (self.project / "test_a.py").rename(package / "test_a.py")
        ran = self.run_suite("-j", "1", "pkg.test_a.A", "pkg.test_a.B", "pkg.test_a")
        self.assertEqual(
            {
                "test_a.A.test_a": "error, error",
                "test_a.A.test_b": "failure, failure",
                "test_a.B.test_b": "failure, failure",
            },
            ran.outcomes,
        )

    def test_doctests_are_spread(self) -> None:
        """Doctests of two modules run in two workers, though all are of one class."""
        meeting = (
            '"""\n>>> import os, time\n>>> open("{0}", "w").close()\n'
            '>>> while not os.path.exists("{1}"): time.sleep(0.01)\n"""'
        )
        self.write(
            test_docs="""
            import doctest, one, two
            def load_tests(loader, tests, pattern):
                return unittest.TestSuite(map(doctest.DocTestSuite, (one, two)))
            """
        )
        for module, names in {"one": ("1", "2"), "two": ("2", "1")}.items():
            (self.project / f"{module}.py").write_text(meeting.format(*names))
        self.assertEqual("OK", self.run_suite("-j", "2").verdict)

    def _assert_the_same(self) -> dict[str, str]:
        """Run the project both ways and compare; the outcomes of ours."""
        done = self.run_unittest("-v")
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
