"""What people are shown: errors, progress, the page of a run's times; and that secrets are not."""

import contextlib
import io
import os
import pickle
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from orchestrator import errors, progress
from orchestrator.environment.timeline import Timeline, add_to_page
from orchestrator.progress import tell, telling
from orchestrator.services.options import masked
from tests.faults.process import await_that


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
        """What takes longer than it should is told while it lasts, and how it ended."""
        with telling("db", "starting", after=60):
            pass
        self.assertEqual("", self.stream.getvalue())
        with telling("db", "starting", after=0.01):
            await_that(lambda: "db: starting, 0 s\n" in self.stream.getvalue(), "it is not told")
        self.assertRegex(self.stream.getvalue(), r"\norchestrator: db: starting took \d+\.\d s\n$")
        with self.assertRaises(ValueError), telling("db", "starting", after=0):
            raise ValueError
        self.assertRegex(self.stream.getvalue(), r"db: starting failed after \d+\.\d s\n$")


class ShownTest(unittest.TestCase):
    """Errors are one tree and travel between processes; what is shown is harmless and no secret."""

    def test_every_error_pickles_with_attributes_and_notes(self) -> None:
        """A parallel runner can carry each between processes."""
        extra = {"exit_code": 1, "oom_killed": True, "probe": "Tcp()", "seconds": 1.5}
        base = errors.OrchestratorError
        found = [value for value in vars(errors).values() if isinstance(value, type)]
        kinds: Any = [value for value in found if issubclass(value, base)]
        self.assertGreater(len(kinds), 13)
        for kind in kinds:
            given = {"service": "db", "logs": "one", **extra}
            known: Any = {errors.EngineError: {"status": 5}, errors.EngineUnavailableError: {}}
            keywords = given if issubclass(kind, errors.ServiceError) else known.get(kind, {})
            error = kind("it broke", **keywords)
            error.add_note("and this is why")
            with self.subTest(kind.__name__):
                copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
                self.assertEqual(
                    (kind, str(error), vars(error)), (type(copy), str(copy), vars(copy))
                )
                self.assertEqual(["and this is why"], copy.__notes__)

    def test_words_from_outside_are_harmless_on_a_terminal(self) -> None:
        """Every error shows them so; what it carries as data is as it was."""
        error = errors.ServiceError(
            "no\x1b[2J", service="db", logs="a\x1b]0;b\x07\x85\x1b[31mc\r\nd\n"
        )
        told = "no\\x1b[2J\nLast log lines of db:\n    a\\x1b]0;b\\x07\\x85\x1b[31mc\n    d\x1b[0m"
        self.assertEqual(told, str(error))
        self.assertEqual("a\x1b]0;b\x07\x85\x1b[31mc\r\nd\n", error.logs)

    def test_printable(self) -> None:
        """Lines, tabs, colours and every script stay; what controls a terminal is shown."""
        for expected, text in (
            ("tab\tline\nñ 日本 👨‍👩‍👧", "tab\tline\nñ 日本 👨‍👩‍👧"),
            ("\\x1b[2J\\x1b]0;title\\x07\\x1bc", "\x1b[2J\x1b]0;title\x07\x1bc"),
            ("\\x9b2J\\x85\\x7f\\x00", "\x9b2J\x85\x7f\x00"),
            ("\\u202egpj.exe\\u2066\\u2028", "\u202egpj.exe\u2066\u2028"),
            ("\\ud800", "\ud800"),
            ("\x1b[38:5:1mleft open\x1b[0m", "\x1b[38:5:1mleft open"),
        ):
            with self.subTest(text):
                self.assertEqual(expected, errors.printable(text))

    def test_a_failed_start_says_why(self) -> None:
        """What the error says is text, not markup, and nothing is loaded from elsewhere."""
        path = Path(self.enterContext(tempfile.TemporaryDirectory())) / "new" / "timeline.html"
        error = "<b>db exited</b>\nlog: \x1b[31m\u202e\x07"
        add_to_page(path, Timeline(test_class="a.A", needs={}), run="1", error=error)
        told = "&lt;b&gt;db exited&lt;/b&gt;\nlog: \\x1b[31m\\u202e\\x07"
        self.assertIn(f"failed after 0.00 s: {told}", path.read_text())
        self.assertNotRegex(path.read_text(), "<script|src=|href=|url\\(|@import")

    def test_a_word_is_hidden_where_passwords_stand(self) -> None:
        """In URLs, and after a key that says what it is; a log without any `test` helps nobody."""
        for shown in (
            "postgresql://test:***@127.0.0.1:5432/test",
            "host=localhost user=test password=*** dbname=test",
            "alter role test password '***'",
            '{"user": "test", "password": "***"}',
            "POSTGRES_PASSWORD: ***",
            'FATAL:  password authentication failed for user "test"',
            'relation "test" does not exist',
            "postgresql://test@127.0.0.1:5432/test",
        ):
            with self.subTest(shown):
                self.assertEqual(shown, masked(shown.replace("***", "test"), ["test"]))
        text = "postgresql://test:5432@localhost:5432/test"
        self.assertEqual("postgresql://test:***@localhost:5432/test", masked(text, ["5432"]))

    def test_what_is_no_word_is_hidden_everywhere(self) -> None:
        """Random passwords, and declared ones that look like it, are secret in any place."""
        for secret in ("hunter2!", "correcthorsebatterystaple", "9f86d081884c7d65"):
            self.assertEqual("said *** aloud", masked(f"said {secret} aloud", [secret]))
