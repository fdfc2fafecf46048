"""People and CI systems that stop a run: everything is torn down and told, exit status 130."""

import os
import signal

from tests.integration.runner.case import RunnerTestCase

SLOW = """
class A(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.addClassCleanup(open("cleaned", "a").write, "x")
    @classmethod
    def tearDownClass(cls):
        open("down", "a").close()
    def test_a(self):
        self.addCleanup(open("test-cleaned", "a").close)
        open("running", "a").close()
        while not os.path.exists("go"):
            time.sleep(0.01)
    def test_b(self): pass
class B(unittest.TestCase):
    def test_b(self): pass
"""


class InterruptTest(RunnerTestCase):
    """Signals to the parent."""

    def test_first_one_lets_tests_finish(self) -> None:
        """After Ctrl-C or SIGTERM to the group the running test finishes; nothing else starts."""
        self.write(test_slow=SLOW + "open('imports', 'a').write('x')\n")
        for number in (signal.SIGINT, signal.SIGTERM):
            with (
                self.subTest(signal=number.name),
                self.started("-j", "1", new_session=True) as running,
            ):
                self.wait_for_file("running")
                os.killpg(running.pid, number)
                self.wait_for_note(running, "may finish")
                (self.project / "go").touch()
                ran = self.ended(running)
                self.assertEqual(("INTERRUPTED (not run=2)", 130), (ran.verdict, ran.status))
                self.assertEqual(
                    {"A.test_a": "ok", "A.test_b": "not-run", "B.test_b": "not-run"}, ran.outcomes
                )
                for file in ("down", "running", "go"):
                    (self.project / file).unlink()
                for file in ("cleaned", "imports"):  # once: there was no other worker
                    self.assertEqual("x", (self.project / file).read_text())
                    (self.project / file).unlink()

    def test_second_one_interrupts(self) -> None:
        """A second Ctrl-C interrupts tests and fixtures; all is torn down, in order."""
        self.write(
            test_slow=SLOW,
            test_async="""
            import asyncio
            class A(unittest.IsolatedAsyncioTestCase):
                @classmethod
                def tearDownClass(cls): open("async-down", "a").close()
                async def test_a(self):
                    open("async-running", "a").close()
                    await asyncio.sleep(1000)
            """,
            test_fixture="""
            def setUpModule():
                unittest.addModuleCleanup(open("module-cleaned", "a").close)
            def tearDownModule():
                open("module-down", "a").close()
            class A(unittest.TestCase):
                @classmethod
                def setUpClass(cls):
                    cls.addClassCleanup(open("class-cleaned", "a").close)
                    open("fixture-running", "a").close()
                    time.sleep(1000)
                def test_a(self): pass
            """,
        )
        with self.started("-j", "3", "test_slow.A", "test_async", "test_fixture") as running:
            for name in ("running", "async-running", "fixture-running"):
                self.wait_for_file(name)
            running.send_signal(signal.SIGINT)
            self.wait_for_note(running, "may finish")
            running.send_signal(signal.SIGINT)
            ran = self.ended(running)
        self.assertEqual(("INTERRUPTED (not run=4)", 130), (ran.verdict, ran.status))
        for trace in ("down", "test-cleaned", "async-down"):
            self.assertTrue((self.project / trace).exists(), trace)
        for trace in ("class-cleaned", "module-cleaned", "module-down"):
            self.assertTrue((self.project / trace).exists(), trace)
        self.assertEqual("x", (self.project / "cleaned").read_text())

    def test_grace_runs_out(self) -> None:
        """After one Ctrl-C a test that does not finish is interrupted when the grace is over."""
        self.write(test_slow=SLOW)
        with self.impatient("-j", "1") as running:
            self.wait_for_file("running")
            running.send_signal(signal.SIGINT)
            ran = self.ended(running)
        self.assertEqual(("INTERRUPTED (not run=3)", 130), (ran.verdict, ran.status))
        self.assertTrue((self.project / "down").exists())

    def test_ctrl_c_while_collecting(self) -> None:
        """Ctrl-C during the imports ends the run."""
        self.write(test_slow="open('running', 'a').close()\ntime.sleep(1000)\n")
        with self.started() as running:
            self.wait_for_file("running")
            running.send_signal(signal.SIGINT)
            ran = self.ended(running)
        self.assertEqual(130, ran.status)

    def test_closed_pipe(self) -> None:
        """A reader that goes away (| head) does not leave workers behind."""
        self.write(test_slow=SLOW)
        with self.started("-j", "1", "-v") as running:
            self.wait_for_file("running")
            assert running.stderr is not None
            running.stderr.close()
            (self.project / "go").touch()
            self.assertEqual(0, running.wait(60))
        self.assertTrue((self.project / "down").exists())

    def test_hung_worker(self) -> None:
        """When the parent is killed, a worker that hangs is interrupted, and torn down."""
        self.write(test_slow=SLOW)
        with self.impatient("-j", "1") as running:
            self.wait_for_file("running")
            running.kill()
            running.wait()
            self.wait_for_file("down")
