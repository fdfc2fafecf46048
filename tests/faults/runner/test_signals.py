"""Signals are the tests' own: each does to a test what it does under plain unittest."""

from __future__ import annotations

from tests.integration.runner.case import RunnerTestCase


class SignalsTest(RunnerTestCase):
    """What tests do with signals."""

    def test_as_under_unittest(self) -> None:
        """Signals, handlers and threads are as Python has them, whatever a test does to them."""
        self.write(
            test_caught="""
            import asyncio, threading
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
                    async def main():
                        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
                        try:
                            await asyncio.sleep(60)
                        except asyncio.CancelledError:
                            self.cancelled = True
                            raise
                    with self.assertRaises(KeyboardInterrupt):
                        asyncio.run(main())
                    self.assertTrue(self.cancelled)
            class B(unittest.TestCase):
                def test_b(self):
                    with self.assertRaises(KeyboardInterrupt):
                        signal.raise_signal(signal.SIGINT)
            """
        )
        ran = self.run_suite("-j", "1", python=("-W", "error"))
        self.assertEqual("OK", ran.verdict, ran.text)
        self.assertEqual(6, len(ran.outcomes))

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
