"""What takes a while is shown on stderr where no test command shows it."""

import contextlib
import io
import os
import time
import unittest
from unittest import mock

from orchestrator import progress
from orchestrator.progress import tell, telling

DEADLINE = 60.0


class ProgressTest(unittest.TestCase):
    """`tell` and `telling`, with nobody who listens."""

    def setUp(self) -> None:
        """Have nobody who listens, and a stderr that has shown nothing yet."""
        kept = {name: value for name, value in os.environ.items() if name != progress.VARIABLE}
        self.enterContext(mock.patch.dict(os.environ, kept, clear=True))
        self.stream = self.enterContext(contextlib.redirect_stderr(io.StringIO()))
        progress._stderr.cache_clear()

    def tell(self) -> str:
        """Tell of one thing from its beginning to its end."""
        for text in ("1 of 80 MB", "2 of 80 MB\x1b[2J"):
            tell("db", text)
        tell("db", "pulled", over=True)
        tell("db", "", over=True)
        return self.stream.getvalue()

    def test_log(self) -> None:
        """A log has a line for the first and for the last, and no control characters."""
        self.assertEqual("orchestrator: db: 1 of 80 MB\norchestrator: db: pulled\n", self.tell())

    def test_terminal(self) -> None:
        """A terminal has the latest in its last line, where the next takes its place."""
        vars(self.stream)["isatty"] = lambda: True
        first, second, *rest = self.tell().split("\x1b[1F\x1b[0J")
        self.assertEqual("\norchestrator: db: 1 of 80 MB\n", first)
        self.assertEqual("orchestrator: db: 2 of 80 MB\\x1b[2J\n", second)
        self.assertEqual(["orchestrator: db: pulled\n"], rest)

    def test_slow(self) -> None:
        """What takes longer than it should is told while it lasts, and how long it took."""
        with telling("db", "starting", after=60):
            pass
        self.assertEqual("", self.stream.getvalue())
        deadline = time.monotonic() + DEADLINE
        with telling("db", "starting", after=0.01):
            while "db: starting, 0 s\n" not in self.stream.getvalue():
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.01)
        self.assertRegex(self.stream.getvalue(), r"\norchestrator: db: starting took \d+\.\d s\n$")

    def test_slow_and_failed(self) -> None:
        """It is not told that something has been done that failed."""
        with self.assertRaises(ValueError), telling("db", "starting", after=0):
            raise ValueError
        self.assertRegex(self.stream.getvalue(), r"db: starting failed after \d+\.\d s\n$")

    def test_no_stderr(self) -> None:
        """Without a stderr nothing is shown, and nothing fails."""
        with contextlib.redirect_stderr(None):
            tell("db", "pulling")
        self.stream.close()
        tell("db", "pulling")
