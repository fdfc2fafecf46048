"""The command line against unittest's own."""

from __future__ import annotations

import argparse
import importlib
import unittest
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.runner.arguments import Options, Shard, configure, options


def _parsed(*argv: str) -> Options:
    parser = argparse.ArgumentParser()
    configure(parser)
    return options(parser.parse_args(argv))


def _names(parser: argparse.ArgumentParser) -> set[str]:
    return {name for action in parser._actions for name in action.option_strings}


class ArgumentsTest(unittest.TestCase):
    """Arguments."""

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

    def test_defaults(self) -> None:
        """Without arguments: discovery, as many workers as fit, reruns."""
        self.assertEqual(Options(), _parsed())

    def test_all_of_ours(self) -> None:
        """Each option arrives where it belongs."""
        self.assertEqual(
            Options(
                names=("a", "b"),
                keep=("*x*", "y*"),
                jobs=4,
                timeout=1.5,
                shuffle="7",
                shard=Shard(number=2, count=3),
                junit=Path("j.xml"),
                logs=Path("logs"),
                rerun_crashed=False,
                verbosity=2,
                failfast=True,
                buffer=True,
                tb_locals=True,
                durations=0,
            ),
            _parsed(
                *[
                    "a",
                    "b",
                    "-k",
                    "x",
                    "-k",
                    "y*",
                    "-j",
                    "4",
                    "--timeout",
                    "1.5",
                    "--shuffle=7",
                    "--shard",
                    "2/3",
                    "--junit",
                    "j.xml",
                ],
                *[
                    "--logs",
                    "logs",
                    "--no-rerun-crashed",
                    "-v",
                    "-f",
                    "-b",
                    "-c",
                    "--locals",
                    "--durations",
                    "0",
                ],
            ),
        )

    def test_discover(self) -> None:
        """Discovery's places are options, or follow the word discover."""
        expected = Options(start="tests", pattern="check*.py", top=".")
        self.assertEqual(expected, _parsed("discover", "-s", "tests", "-p", "check*.py", "-t", "."))
        self.assertEqual(expected, _parsed("discover", "tests", "check*.py", "."))
        self.assertEqual(expected, _parsed("-s", "tests", "-p", "check*.py", "-t", "."))

    def test_too_many_places(self) -> None:
        """A fourth place is refused."""
        with self.assertRaisesRegex(OrchestratorError, "start, pattern and top"):
            _parsed("discover", "a", "b", "c", "d")
