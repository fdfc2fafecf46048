"""What tests do to their own process and with signals: as harmless as under unittest."""

from tests.integration.runner.case import RunnerTestCase


class MannersTest(RunnerTestCase):
    """Bad manners, also with signals."""

    def test_harmless(self) -> None:
        """What a test does to its own process, streams and folder disturbs no report."""
        self.write(
            test_harmless="""
            import subprocess, tempfile
            class ClosesDescriptors(unittest.TestCase):
                def test_a(self): os.closerange(3, 200)
                def test_b(self): pass
            class ClosesStreams(unittest.TestCase):
                def test_a(self):
                    sys.stdout.close()
                    sys.stderr.close()
                    os.closerange(1, 3)
                def test_b(self): pass
            class LeavesAChildWithStdout(unittest.TestCase):
                def test_a(self): subprocess.Popen(["sleep", "1000"])
            class ChangesFolder(unittest.TestCase):
                def test_a(self):
                    with tempfile.TemporaryDirectory() as folder:
                        os.chdir(folder)
                def test_b(self): pass
            class Looks(unittest.TestCase):
                def test_arguments(self): self.assertEqual([], sys.argv[1:])
                def test_stdin(self):
                    self.assertEqual("", sys.stdin.read())
                    with self.assertRaises(EOFError):
                        input()
            """
        )
        ran = self.run_suite("--junit", "relative.xml", "-j", "2")
        self.assertEqual(("OK", 0), (ran.verdict, ran.status), ran.text)
        self.assertTrue((self.project / "relative.xml").exists())

    def test_forked_children(self) -> None:
        """Children are processes like any: they die of SIGTERM, report nothing, may live on."""
        self.write(
            test_fork="""
            import multiprocessing
            def double(number): return 2 * number
            class UsesProcesses(unittest.TestCase):
                def test_fork(self):
                    with multiprocessing.get_context("fork").Pool(2) as pool:
                        self.assertEqual([2, 4], pool.map(double, [1, 2]))
            class IsKilled(unittest.TestCase):
                def test_a(self):
                    pid = os.fork()
                    if not pid:
                        time.sleep(1000)
                    os.kill(pid, signal.SIGTERM)
                    _, status = os.waitpid(pid, 0)
                    self.assertEqual(-signal.SIGTERM, os.waitstatus_to_exitcode(status))
            class Returns(unittest.TestCase):
                def test_a(self):
                    pid = os.fork()
                    if pid:
                        os.waitpid(pid, 0)
                def test_b(self): pass
            class LivesOn(unittest.TestCase):
                def test_a(self):
                    if os.fork():
                        os._exit(1)
                    time.sleep(1000)
                def test_b(self): pass
            """
        )
        ran = self.run_suite("-j", "2")
        self.assertEqual(
            {
                "UsesProcesses.test_fork": "ok",
                "IsKilled.test_a": "ok",
                "Returns.test_a": "ok",
                "Returns.test_b": "ok",
                "LivesOn.test_a": "error",
                "LivesOn.test_b": "ok",
            },
            ran.outcomes,
        )

    def test_output_of_every_kind(self) -> None:
        """It is shown class by class, on its own stream; -W reaches the workers."""
        self.write(
            test_output=r"""
            import subprocess
            import warnings
            print("imported")
            class A(unittest.TestCase):
                def test_a(self):
                    print("one")
                    os.write(1, b"two \xff\n")
                    print("three", file=sys.stderr)
                    subprocess.run(["echo", "four"])
            class B(unittest.TestCase):
                def test_b(self):
                    print("five")
            class C(unittest.TestCase):
                def test_c(self): warnings.warn("old", DeprecationWarning)
            """
        )
        ran = self.run_suite("-j", "2", python=("-W", "error"))
        self.assertRegex(ran.text, r"output of test_output\.A -+\nthree\n-")
        blocks = ran.stdout.partition("one\ntwo \\xff\nfour\n")
        self.assertEqual(["imported", "five"], "".join(blocks[::2]).split())
        shown = [(s.findtext("system-out"), s.findtext("system-err")) for s in ran.report]
        expected = [("one\ntwo \\xff\nfour\n", "three\n"), ("five\n", None)]
        self.assertEqual(expected, shown[:2])
        self.assertEqual("error", ran.outcomes["C.test_c"])

    def test_every_descriptor_closed(self) -> None:
        """A test that closes the runner's own connection is told so; no file is written to."""
        self.write(
            test_close="""
            class A(unittest.TestCase):
                @classmethod
                def tearDownClass(cls):
                    open("down", "a").close()
                def test_a(self):
                    os.closerange(3, 5000)
                    type(self).files = [open("victim", "a") for _ in range(600)]
                def test_b(self): pass
            """
        )
        ran = self.run_suite()
        self.assertEqual({"A.test_a": "error", "A.test_b": "ok"}, ran.outcomes)
        self.assertIn("did a test close descriptors not its own?", ran.text)
        self.assertTrue((self.project / "down").exists())
        self.assertEqual("", (self.project / "victim").read_text())

    def test_as_under_unittest(self) -> None:
        """Signals, handlers and threads are as Python has them, whatever a test does to them."""
        self.write(
            test_caught="""
            import threading
            HANDLERS = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
            class Untouched(unittest.TestCase):
                def test_signals(self):
                    expected = signal.default_int_handler, signal.SIG_DFL
                    now = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
                    self.assertEqual(expected, HANDLERS)
                    self.assertEqual(expected, now)
                    self.assertEqual(set(), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
                def test_threads(self):
                    self.assertEqual([threading.main_thread()], threading.enumerate())
                def test_fork_without_a_warning_of_threads(self):
                    pid = os.fork()
                    if not pid: os._exit(0)
                    os.waitpid(pid, 0)
            class A(unittest.TestCase):
                def test_a(self):
                    for _ in range(3):
                        with self.assertRaises(KeyboardInterrupt):
                            os.kill(os.getpid(), signal.SIGINT)
                            time.sleep(60)
                def test_b(self):
                    with self.assertRaises(KeyboardInterrupt):
                        signal.raise_signal(signal.SIGINT)
            """
        )
        ran = self.run_suite("-j", "1", python=("-W", "error"))
        self.assertEqual("OK", ran.verdict, ran.text)
        self.assertEqual(5, len(ran.outcomes))

    def test_nobody_catches_it(self) -> None:
        """A KeyboardInterrupt that nothing catches ends the run with a report, as Ctrl-C does."""
        self.write(
            test_uncaught="""
            class A(unittest.TestCase):
                @classmethod
                def tearDownClass(cls): open("down", "a").close()
                def test_a(self): signal.raise_signal(signal.SIGINT)
                def test_b(self): pass
            class B(unittest.TestCase):
                def test_b(self): pass
            """
        )
        ran = self.run_suite("-j", "1")
        self.assertEqual(("INTERRUPTED (errors=1, not run=2)", 130), (ran.verdict, ran.status))
        self.assertEqual(
            {"A.test_a": "error", "A.test_b": "not-run", "B.test_b": "not-run"}, ran.outcomes
        )
        self.assertIn("def test_a(self): signal.raise_signal(signal.SIGINT)\n", ran.text)
        self.assertTrue((self.project / "down").exists())
