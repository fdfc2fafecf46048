"""The command line against unittest's own."""

from __future__ import annotations

import argparse
import importlib
import io
import unittest
from contextlib import redirect_stderr
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.runner.options import Options, Shard, Timeouts, configure, parsed


def _parsed(line: str) -> Options:
    parser = argparse.ArgumentParser()
    configure(parser)
    return parsed(parser.parse_args(line.split()))


def _names(parser: argparse.ArgumentParser) -> set[str]:
    return {name for action in parser._actions for name in action.option_strings}


class OptionsTest(unittest.TestCase):
    """Options."""

    def test_every_option_of_unittest(self) -> None:
        """Whatever option this Python's unittest has, the command has too."""
        program: Any = importlib.import_module("unittest.main").TestProgram
        theirs = object.__new__(program)
        theirs.progName, theirs.module = "unittest", None
        theirs._initArgParsers()
        ours = argparse.ArgumentParser()
        configure(ours)
        missing = (_names(theirs._main_parser) | _names(theirs._discovery_parser)) - _names(ours)
        self.assertEqual(set(), missing)

    def test_all_of_ours(self) -> None:
        """Each option arrives where it belongs; without any, the defaults hold."""
        self.assertEqual(Options(), _parsed(""))
        expected = Options(
            names=("a", "b"),
            keep=("*x*", "y*"),
            jobs=4,
            timeouts=Timeouts(unit_class=1.5),
            shuffle="7",
            shard=Shard(number=2, count=3),
            junit="j.xml",
            logs="logs",
            verbosity=2,
            failfast=True,
            buffer=True,
            tb_locals=True,
            durations=0,
            failed="only",
            retries=2,
        )
        ours = "a b -k x -k y* -j 4 --timeout 1.5 --shuffle=7 --shard 2/3 --junit j.xml --logs logs"
        ours += " --failed --retries 2"
        theirs = "-v -f -b -c --locals --durations 0"
        self.assertEqual(expected, _parsed(f"{ours} {theirs}"))

    def test_wrong_values(self) -> None:
        """A wrong value is named, with what was expected."""
        for line, words in (
            ("-j 0", "expected a number of workers, or auto, not '0'"),
            ("--shard 3/2", "such as 2/4, not '3/2'"),
            ("--junit .", "expected a file, but '.' is a folder"),
            (f"--logs {__file__}", "is a file"),
            ("--timeout -1", "expected a number of seconds"),
            ("--shuffle test_letters", "write --shuffle behind the names"),
        ):
            with redirect_stderr(io.StringIO()) as said, self.assertRaises(SystemExit):
                _parsed(line)
            self.assertIn(words, said.getvalue())

    def test_discover(self) -> None:
        """Discovery's places are options, or follow the word discover; there are three."""
        expected = Options(start="tests", pattern="check*.py", top=".")
        for line in (
            "discover -s tests -p check*.py -t .",
            "discover tests check*.py .",
            "-s tests -p check*.py -t .",
        ):
            self.assertEqual(expected, _parsed(line), line)
        with self.assertRaisesRegex(OrchestratorError, "start, pattern and top"):
            _parsed("discover a b c d")
