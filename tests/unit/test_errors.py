"""The tree of errors."""

from __future__ import annotations

import pickle
import unittest
from typing import Any

from orchestrator import errors


class ErrorsTest(unittest.TestCase):
    """Errors are one tree, and travel between processes."""

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


class PrintableTest(unittest.TestCase):
    """`printable`."""

    def test_text(self) -> None:
        """Lines, tabs, colours and every script stay; what controls a terminal is shown."""
        for expected, text in (
            ("tab\tline\nñ 日本 👨‍👩‍👧", "tab\tline\nñ 日本 👨‍👩‍👧"),
            ("a\nb\\rb\\x08", "a\r\nb\rb\x08"),
            ("\\x1b[2J\\x1b]0;title\\x07\\x1bc", "\x1b[2J\x1b]0;title\x07\x1bc"),
            ("\\x9b2J\\x85\\x7f\\x00", "\x9b2J\x85\x7f\x00"),
            ("\\u202egpj.exe\\u2066\\u2028", "\u202egpj.exe\u2066\u2028"),
            ("\\ud800", "\ud800"),
            ("\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m"),
            ("\x1b[38:5:1mleft open\x1b[0m", "\x1b[38:5:1mleft open"),
        ):
            with self.subTest(text):
                self.assertEqual(expected, errors.printable(text))

    def test_line(self) -> None:
        """A cell is one line without colours, whose parts stand one space apart."""
        for expected, text in (
            ("a\\nb\\tc", "a\nb\tc"),
            ("a b c", "a" + " " * 200 + "b\u00a0\u3000c"),
            ("\\x1b[31mred\\u2029", "\x1b[31mred\u2029"),
        ):
            with self.subTest(text):
                self.assertEqual(expected, errors.printable(text, lines=False))
