"""Workers that die or hang: one test is the error, every other has its own outcome."""

from tests.integration.runner.case import RunnerTestCase


class CrashTest(RunnerTestCase):
    """A worker dies or hangs."""

    def test_every_way_to_die(self) -> None:
        """A death costs the running test or fixture; the rest runs, once, with its fixtures."""
        self.write(
            test_crash="""
            class Segfault(unittest.TestCase):
                @classmethod
                def setUpClass(cls): note("up")
                @classmethod
                def tearDownClass(cls): note("down")
                def test_a(self): note("a")
                def test_b(self):
                    note("b")
                    print("before the end")
                    os.kill(os.getpid(), signal.SIGSEGV)
                def test_c(self): note("c")
            class Exit(unittest.TestCase):
                def test_a(self): os._exit(0)
                def test_b(self): pass
            class Often(unittest.TestCase):
                def test_a(self): os.kill(os.getpid(), signal.SIGKILL)
                def test_b(self):
                    os.kill(os.getpid(), signal.SIGTERM)
                    time.sleep(60)
                test_c = test_d = test_a
                def test_e(self): pass
            class InFixture(unittest.TestCase):
                @classmethod
                def setUpClass(cls):
                    try:
                        open("tried", "x").close()
                    except FileExistsError:
                        return
                    os.kill(os.getpid(), signal.SIGKILL)
                def test_a(self): pass
            class AlwaysInFixture(unittest.TestCase):
                @classmethod
                def setUpClass(cls): os._exit(1)
                def test_a(self): pass
            class InTeardown(unittest.TestCase):
                @classmethod
                def tearDownClass(cls): os._exit(0)
                def test_a(self): pass
            """,
            test_module="""
            def setUpModule(): open("ups", "a").write("x")
            class A(unittest.TestCase):
                def test_a(self): os._exit(1)
            class B(unittest.TestCase):
                def test_b(self): pass
            """,
        )
        ran = self.run_suite("-j", "2")
        self.assertEqual(
            {
                "Segfault.test_a": "ok",
                "Segfault.test_b": "error",
                "Segfault.test_c": "ok",
                "Exit.test_a": "error",
                "Exit.test_b": "ok",
                **{f"Often.test_{letter}": "error" for letter in "abcd"},
                "Often.test_e": "not-run",  # four workers are enough
                "InFixture.setUpClass": "error",
                "InFixture.test_a": "ok",
                "AlwaysInFixture.setUpClass": "error, error",
                "AlwaysInFixture.test_a": "not-run",
                "InTeardown.test_a": "ok",
                "InTeardown.tearDownClass": "error",
                "A.test_a": "error",
                "B.test_b": "ok",
            },
            ran.outcomes,
        )
        self.assertEqual(("FAILED (errors=11, not run=2)", 1), (ran.verdict, ran.status))
        self.assertRegex(ran.text, r"worker \d+ \(pid \d+\) was killed by SIGSEGV in test_b \(")
        self.assertIn("Fatal Python error: Segmentation fault", ran.text)
        self.assertIn("before the end", ran.text)
        self.assertEqual(["up", "a", "b", "up", "c", "down"], self.noted())
        self.assertEqual("xx", (self.project / "ups").read_text())

    def test_death_at_the_exit(self) -> None:
        """A worker that dies after its last test is an error of its own."""
        self.write(
            test_exit="""
            import atexit
            class A(unittest.TestCase):
                def test_a(self): atexit.register(os.kill, os.getpid(), signal.SIGSEGV)
            """
        )
        ran = self.run_suite()
        self.assertEqual({"A.test_a": "ok", "worker 1.exit": "error"}, ran.outcomes)
        self.assertIn("was killed by SIGSEGV", ran.text)
        self.assertEqual(("FAILED (errors=1)", 1), (ran.verdict, ran.status))

    def test_crash_while_collecting(self) -> None:
        """When importing the tests kills the process, the run says so and ends with 3."""
        self.write(test_crash="os._exit(7)")
        ran = self.run_suite("-j", "2")
        self.assertEqual(("NOT COLLECTED", 3), (ran.verdict, ran.status))
        self.assertIn("exited with status 7 while it collected", ran.text)

    def test_workers_that_collect_differently(self) -> None:
        """Tests that another worker does not know are an error, never silently skipped."""
        self.write(
            test_differs="""
            with open("workers", "a") as file:
                print(os.getpid(), file=file)
            def leave_b_to_the_other_worker():
                while len(open("workers").readlines()) < 2:
                    time.sleep(0.01)
                _, other = open("workers").readlines()
                while os.path.exists(f"/proc/{int(other)}"):
                    time.sleep(0.01)
            class A(unittest.TestCase):
                def test_a(self): leave_b_to_the_other_worker()
                def test_b(self): pass
                def test_c(self): pass
            B = type("B", (unittest.TestCase,), {
                f"test_{os.getpid()}_{number}": lambda self: None for number in range(2)
            })
            """
        )
        ran = self.run_suite("-j", "2")
        self.assertEqual(1, ran.status)
        self.assertIn("Tests must be collected the same each time", ran.text)
        self.assertIn("not run=2", ran.verdict)

    def test_workers_that_cannot_collect_again(self) -> None:
        """When only the first worker can collect it runs everything; others are not hired anew."""
        self.write(
            test_once="""
            with open("imports", "a") as file:
                file.write("x")
            if os.stat("imports").st_size > 1:
                raise RuntimeError("a second time")
            class A(unittest.TestCase):
                def test_a(self):
                    deadline = time.monotonic() + 3
                    while os.stat("imports").st_size < 8 and time.monotonic() < deadline:
                        time.sleep(0.01)
            class B(unittest.TestCase):
                def test_b(self): pass
            """
        )
        ran = self.run_suite("-j", "2", "test_once")
        self.assertEqual(1, ran.status)
        self.assertIn("RuntimeError: a second time", ran.text)
        self.assertEqual(("ok", "ok"), (ran.outcomes["A.test_a"], ran.outcomes["B.test_b"]))
        self.assertLess(len((self.project / "imports").read_text()), 8)

    def test_every_way_to_hang(self) -> None:
        """A hang is an error with its stack; what can be torn down is, and the rest runs."""
        self.write(
            test_hang="""
            class Sleeps(unittest.TestCase):
                @classmethod
                def setUpClass(cls):
                    cls.addClassCleanup(open("cleaned", "a").write, "x")
                def test_a(self):
                    self.wait_for_ever()
                def wait_for_ever(self):
                    time.sleep(1000)
                def test_b(self): pass
            class Stubborn(unittest.TestCase):
                def test_a(self):
                    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
                    time.sleep(1000)
                def test_b(self): pass
            class InFixture(unittest.TestCase):
                @classmethod
                def setUpClass(cls): time.sleep(1000)
                def test_a(self): pass
            class Stopped(unittest.TestCase):
                def test_a(self): os.kill(os.getpid(), signal.SIGSTOP)
                def test_b(self): pass
            """
        )
        ran = self.run_impatiently("--timeout", "2", "-j", "4")
        self.assertEqual(
            {
                "Sleeps.test_a": "error",
                "Sleeps.test_b": "ok",
                "Stubborn.test_a": "error",
                "Stubborn.test_b": "ok",
                "InFixture.setUpClass": "error",  # once: a second try would take as long
                "InFixture.test_a": "not-run",
                "Stopped.test_a": "error",  # woken to look at it, it passes, which is too late
                "Stopped.test_b": "ok",
            },
            ran.outcomes,
        )
        self.assertEqual(1, ran.status)
        self.assertIn("its class took more than 2 s (--timeout)", ran.text)
        self.assertEqual(1, ran.text.count("in wait_for_ever"), ran.text)
        self.assertNotIn("runner/worker.py", ran.text)
        self.assertEqual("xx", (self.project / "cleaned").read_text())

    def test_hang_while_collecting(self) -> None:
        """An import that hangs ends with 3 and shows where."""
        self.write(test_hang="def wait_for_ever():\n    time.sleep(1000)\nwait_for_ever()\n")
        ran = self.run_impatiently("--timeout", "1", collect=2)
        self.assertEqual(3, ran.status)
        self.assertIn("Collecting the tests took more than 2 s", ran.text)
        self.assertIn("in wait_for_ever", ran.text)

    def test_slow_imports(self) -> None:
        """The time is a class's: imports may take longer, in each worker."""
        self.write(
            test_slow="""
            time.sleep(1.2)
            class A(unittest.TestCase):
                def test_a(self): os._exit(1)
                def test_b(self): pass
            """
        )
        ran = self.run_suite("--timeout", "1", "-j", "1")
        self.assertEqual({"A.test_a": "error", "A.test_b": "ok"}, ran.outcomes, ran.text)
        self.assertNotIn("took more than", ran.text)

    def test_thread_that_never_ends(self) -> None:
        """A thread that outlives the tests holds up neither the report nor the exit for ever."""
        self.write(
            test_thread="""
            import threading
            class A(unittest.TestCase):
                def test_a(self):
                    threading.Thread(target=time.sleep, args=(1000,)).start()
            """
        )
        ran = self.run_impatiently()
        self.assertEqual(("OK", 0), (ran.verdict, ran.status))
        self.assertIn("did not exit within", ran.text)
