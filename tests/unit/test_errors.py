"""The tree of errors."""

from __future__ import annotations

import pickle
import unittest

from orchestrator import errors

EXAMPLES = [
    errors.DeclarationError("a"),
    errors.InvalidReferenceError("b"),
    errors.SettingsError("c"),
    errors.EngineError("d", status=500),
    errors.EngineUnavailableError("e"),
    errors.LockError("f"),
    errors.ImageNotLockedError("g"),
    errors.DigestMismatchError("h"),
    errors.ServiceError("i", service="db", logs="one\ntwo"),
    errors.ServiceExitedError("j", service="db", exit_code=1, oom_killed=True, logs="x"),
    errors.ServiceNotReadyError("k", service="db", probe="Tcp()", seconds=1.5, attempts=3),
    errors.ServiceNotRunningError("l", service="db"),
    errors.MissingDriverError("m"),
    errors.ReapError("n"),
]


class ErrorsTest(unittest.TestCase):
    """Errors are one tree, and travel between processes."""

    def test_every_error_of_the_tree_has_an_example_here(self) -> None:
        """The table above covers every public error."""
        public = {
            value
            for value in vars(errors).values()
            if isinstance(value, type) and issubclass(value, errors.OrchestratorError)
        }
        self.assertEqual(public - {errors.OrchestratorError}, {type(error) for error in EXAMPLES})

    def test_every_error_pickles_with_its_attributes(self) -> None:
        """A parallel runner can carry each error between processes."""
        for error in EXAMPLES:
            with self.subTest(type(error).__name__):
                copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
                self.assertEqual(
                    (type(error), str(error), vars(error)), (type(copy), str(copy), vars(copy))
                )

    def test_notes_survive_pickling(self) -> None:
        """What was added to an error on its way travels with it."""
        error = errors.ServiceError("it broke", service="db")
        error.add_note("and this is why")
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
        self.assertEqual(["and this is why"], copy.__notes__)

    def test_words_from_outside_are_harmless_on_a_terminal(self) -> None:
        """Every error shows them so; what it carries as data is as it was."""
        error = errors.ServiceError(
            "no\x1b[2J", service="db", logs="a\x1b]0;b\x07\x85\x1b[31mc\r\nd\n"
        )
        told = "no\\x1b[2J\nLast log lines of db:\n    a\\x1b]0;b\\x07\\x85\x1b[31mc\n    d\x1b[0m"
        self.assertEqual(told, str(error))
        self.assertEqual("a\x1b]0;b\x07\x85\x1b[31mc\r\nd\n", error.logs)

    def test_service_error_shows_the_last_log_lines(self) -> None:
        """The message of a service's error ends with what the service last said."""
        error = errors.ServiceError("it broke", service="db", logs="one\ntwo\n")
        self.assertEqual("it broke\nLast log lines of db:\n    one\n    two", str(error))

    def test_the_docstring_lists_the_whole_tree(self) -> None:
        """The tree at the top of the module names every error."""
        for error in EXAMPLES:
            self.assertIn(f"─ {type(error).__name__} ", errors.__doc__ or "")


class PrintableTest(unittest.TestCase):
    """`printable`."""

    def test_text(self) -> None:
        """Lines, tabs, colours and every script stay; what controls a terminal is shown."""
        for expected, text in (
            ("tab\tline\nñ 日本 👨‍👩‍👧", "tab\tline\nñ 日本 👨‍👩‍👧"),
            ("a\nb", "a\r\nb"),
            ("a\\rb\\x08", "a\rb\x08"),
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
