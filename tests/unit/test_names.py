"""The version, and names that are nearly right: what was meant is named."""

import contextlib
import copy
import io
import re
import unittest
from importlib import metadata

import orchestrator
from orchestrator import Postgres, Redis, Services, ServicesMixin
from orchestrator.cli import main
from orchestrator.errors import DeclarationError


class VersionTest(unittest.TestCase):
    """`orchestrator.__version__` and ``--version``."""

    def test_version(self) -> None:
        """It is the installed distribution's, for programs and on the command line."""
        expected = metadata.version("unittest-orchestrator")
        self.assertEqual(expected, orchestrator.__version__)
        out = io.StringIO()
        with contextlib.redirect_stdout(out), self.assertRaises(SystemExit) as ended:
            main(["--version"])
        self.assertEqual((0, f"orchestrator {expected}\n"), (ended.exception.code, out.getvalue()))


class DidYouMeanTest(unittest.TestCase):
    """A typo's error names what was meant."""

    def test_names_of_the_library(self) -> None:
        """Its classes, options, attributes, and the services of a class."""
        for typo, expected in (
            (lambda: orchestrator.Postgress, "did you mean 'Postgres'?"),
            (lambda: Postgres(databse="x"), "did you mean 'database'?"),  # type: ignore[call-arg]
            (lambda: Postgres().enginee, "'Postgres' object has no attribute 'enginee'; did you"),  # type: ignore[attr-defined]
            (lambda: Redis().nothing_like_it, "has no attribute 'nothing_like_it'$"),  # type: ignore[attr-defined]
        ):
            with self.subTest(expected), self.assertRaises(Exception) as caught:
                typo()
            self.assertIsInstance(caught.exception, (AttributeError, DeclarationError))
            self.assertRegex(str(caught.exception), expected.replace("?", r"\?"))

    def test_services(self) -> None:
        """A service of a test class, and of what runs without one."""

        class CheckoutTest(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None: ...

        class Shop(Services):
            cache = Redis()

        for owner in (CheckoutTest("test_it"), Shop()):
            with self.assertRaisesRegex(AttributeError, "no attribute 'cahce'; did you mean 'cac"):
                _ = owner.cahce  # type: ignore[union-attr]

    def test_an_attribute_that_fails_tells_why(self) -> None:
        """A property's own error is not taken for a typo; protocols that ask are told no."""

        class Broken(Redis):
            @property
            def broken(self) -> str:
                """One that fails."""
                return str({}.nothing)  # type: ignore[attr-defined]

        with self.assertRaisesRegex(AttributeError, "'dict' object has no attribute 'nothing'"):
            _ = Broken().broken
        self.assertFalse(hasattr(Redis(), "__len__"))
        self.assertIsNot(declared := Redis(), copy.copy(declared))

    def test_commands(self) -> None:
        """An unknown command is named with the nearest, or with all there are."""
        for command, expected in (("pul", "did you mean 'pull'?"), ("x", "there are doctor, load")):
            err = io.StringIO()
            with (
                self.subTest(command),
                contextlib.redirect_stderr(err),
                self.assertRaises(SystemExit) as ended,
            ):
                main([command])
            self.assertEqual(2, ended.exception.code)
            self.assertRegex(
                err.getvalue(), f"there is no command '{command}'; {re.escape(expected)}"
            )
