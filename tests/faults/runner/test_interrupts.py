"""People and CI systems that stop a run: everything is torn down and told, exit status 130."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading

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
        """After one Ctrl-C, or SIGTERM, the running test finishes; nothing else starts."""
        self.write(test_slow=SLOW + "open('imports', 'a').write('x')\n")
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(signal=number.name), self.started("-j", "1") as running:
                self.wait_for_file("running")
                running.send_signal(number)
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

    def test_one_too_many(self) -> None:
        """However often Ctrl-C is pressed, the reports are written."""
        self.write(
            test_many="""
            for number in range(300):
                globals()[f"A{number}"] = type(
                    f"A{number}", (unittest.TestCase,), {"test_a": lambda self: self.fail()}
                )
            class B(unittest.TestCase):
                def test_b(self):
                    open("running", "a").close()
                    time.sleep(1000)
            """
        )
        written = (self.project / "junit.xml").exists
        over = threading.Event()
        with self.started("-j", "1", "-q") as running:
            self.wait_for_file("running")

            def press() -> None:
                while not over.wait(0.001) and not written():
                    running.send_signal(signal.SIGINT)

            pressing = threading.Thread(target=press)
            pressing.start()
            try:
                ran = self.ended(running)
            finally:
                over.set()
                pressing.join()
        self.assertIn("\nINTERRUPTED (failures=300, not run=1)\n", ran.text)
        self.assertEqual(301, len(ran.outcomes))

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

    def test_ctrl_c_while_another_worker_collects(self) -> None:
        """A worker that is interrupted in its imports has nothing to tell about them."""
        self.write(
            test_two="""
            try:
                open("first", "x").close()
            except FileExistsError:
                open("second", "x").close()
                time.sleep(1000)
            class A(unittest.TestCase):
                def test_a(self):
                    open("running", "a").close()
                    while not os.path.exists("go"):
                        time.sleep(0.01)
            class B(unittest.TestCase):
                def test_b(self): pass
            """
        )
        with self.started("-j", "2", "test_two") as running:
            for name in ("running", "second"):
                self.wait_for_file(name)
            running.send_signal(signal.SIGINT)
            self.wait_for_note(running, "may finish")
            self.wait_for(lambda: len(self.workers()) == 1, "the second worker to end")
            (self.project / "go").touch()
            ran = self.ended(running)
        self.assertEqual({"A.test_a": "ok", "B.test_b": "not-run"}, ran.outcomes)
        self.assertNotIn("Traceback", ran.text)

    def test_clean_ups_at_the_exit(self) -> None:
        """An interrupt that reaches a worker at its exit does not cut its clean-ups short."""
        self.write(
            test_exit="""
            import atexit
            from orchestrator.runner.messages import INTERRUPT
            def clean_up():
                os.kill(os.getpid(), INTERRUPT)
                open("cleaned", "a").close()
            class A(unittest.TestCase):
                def test_a(self): atexit.register(clean_up)
            """
        )
        ran = self.run_suite()
        self.assertEqual("OK", ran.verdict)
        self.assertNotIn("Traceback", ran.text)
        self.assertTrue((self.project / "cleaned").exists())

    def test_terminal(self) -> None:
        """Ctrl-C typed at a terminal reaches the parent alone: the running test finishes."""
        self.write(test_slow=SLOW)
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "test", "-v", "-j", "1"],
            cwd=self.project,
            env=os.environ | {"ORCHESTRATOR_TEST_TAG": self.tag},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509 - no threads here
        ) as running:
            os.close(theirs)
            seen = b""
            while b"[1] test_slow.A.test_a" not in seen:
                seen += os.read(ours, 4096)
            os.write(ours, b"\x03")
            while b"may finish" not in seen:
                seen += os.read(ours, 4096)
            (self.project / "go").touch()
            while chunk := _read(ours):
                seen += chunk
            self.assertEqual(130, running.wait())
        os.close(ours)
        self.assertIn(b"INTERRUPTED (not run=2)", seen)

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


class ParentKilledTest(RunnerTestCase):
    """The parent dies without a word."""

    def test_hung_worker(self) -> None:
        """When the parent is killed, a worker that hangs is interrupted, and torn down."""
        self.write(test_slow=SLOW)
        with self.impatient("-j", "1") as running:
            self.wait_for_file("running")
            running.kill()
            running.wait()
            self.wait_for_file("down")

    def test_workers_finish_and_tear_down(self) -> None:
        """When the parent is killed, with its group, workers finish their test and tear down."""
        self.write(test_slow=SLOW)
        with self.started("-j", "1", new_session=True) as running:
            self.wait_for_file("running")
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            (self.project / "go").touch()
            self.wait_for(lambda: not self.processes(), "the workers to exit")
        self.assertTrue((self.project / "down").exists())
        self.assertEqual("x", (self.project / "cleaned").read_text())


def _take_terminal() -> None:
    """Make standard input the controlling terminal of the new session."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other side of the terminal is closed
        return b""
