"""What a run is asked for, what its workers send, and what it reports."""

from __future__ import annotations

import argparse
import importlib
import io
import tempfile
import unittest
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree as ET

import xmlschema
from hypothesis import given, settings
from hypothesis import strategies as some

from orchestrator.errors import OrchestratorError
from orchestrator.runner import junit_report
from orchestrator.runner.messages import Message, MessageError, decode, encode
from orchestrator.runner.options import NORMAL, Options, Shard, Timeouts, configure, parsed
from orchestrator.runner.results import (
    Outcome,
    Output,
    Problem,
    Record,
    Results,
    Test,
    Unit,
    UnitResult,
)
from orchestrator.runner.text_report import Text


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


class MessagesTest(unittest.TestCase):
    """Messages survive the way, whatever text is in them."""

    @settings(max_examples=50)
    @given(some.data(), some.sampled_from(get_args(Message)))
    def test_round_trip(self, data: some.DataObject, kind: Any) -> None:
        """What is sent is what arrives, lone surrogates too, in one line of ASCII."""
        # surrogates included: file names and broken encodings put them into messages
        any_text = some.text(some.characters(categories=["L", "P", "Z", "C"]), max_size=20)
        message = data.draw(some.from_type(kind))
        for field, value in vars(message).items():
            if isinstance(value, str):
                object.__setattr__(message, field, data.draw(any_text))
        line = encode(message)
        self.assertEqual(repr(message), repr(decode(line)))  # not even nan equals itself
        self.assertTrue(line.isascii())
        self.assertEqual(1, line.count(b"\n"))

    @given(some.binary())
    def test_noise(self, line: bytes) -> None:
        """A line that is no message is a MessageError, and nothing else."""
        with self.assertRaises(MessageError):
            decode(line)


SCHEMA = xmlschema.XMLSchema(Path(__file__).with_name("junit.xsd"))
ANY_TEXT = some.text(some.characters(categories=["L", "N", "P", "S", "Z", "C"]), max_size=12)
OUTPUTS = some.builds(Output, out=ANY_TEXT, err=ANY_TEXT)
FAILED = (Outcome.FAILURE, Outcome.ERROR, Outcome.UNEXPECTED_SUCCESS)
PROBLEMS = some.builds(
    Problem,
    outcome=some.sampled_from(FAILED),
    title=ANY_TEXT,
    kind=ANY_TEXT,
    message=ANY_TEXT,
    text=ANY_TEXT,
)


@some.composite
def _results(draw: some.DrawFn) -> UnitResult:
    owner = "module." + draw(ANY_TEXT)
    count = draw(some.integers(1, 4))
    tests = tuple(Test(id=f"{owner}.{draw(ANY_TEXT)}", owner=owner, title="") for _ in range(count))
    result = UnitResult(
        unit=Unit(key=owner, tests=tests, files={owner: draw(ANY_TEXT)}),
        order=range(count),
        outputs=draw(some.dictionaries(some.just(owner), OUTPUTS)),
        facts=draw(some.dictionaries(some.just(owner), some.dictionaries(ANY_TEXT, ANY_TEXT))),
    )
    for ordinal, test in enumerate(tests):
        record = Record(
            test=test,
            outcome=draw(some.sampled_from(Outcome)),
            problems=tuple(draw(some.lists(PROBLEMS, max_size=2))),
            reason=draw(ANY_TEXT),
            earlier=tuple(draw(some.lists(PROBLEMS, max_size=1))),
            seconds=draw(some.floats(0, 1e6)),
        )
        result.record(ordinal, (record,))
    places = some.sampled_from([owner, ""])
    result.fixtures = [(draw(places), it) for it in draw(some.lists(PROBLEMS, max_size=2))]
    return result


class JunitTest(unittest.TestCase):
    """JUnit."""

    @settings(max_examples=25)
    @given(some.lists(_results(), max_size=3))
    def test_schema(self, units: list[UnitResult]) -> None:
        """Whatever a run brought, the report is valid, and counts every test once."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "new" / "junit.xml"
            junit_report.write(Results(units=units), path)
            SCHEMA.validate(path)
            report = ET.parse(path).getroot()
            self.assertEqual([path], list(path.parent.iterdir()))
        tests = sum(len(unit.records) + len(unit.fixtures) for unit in units)
        self.assertEqual(tests, len(list(report.iter("testcase"))))
        self.assertEqual(str(len(list(report.iter("testcase")))), report.get("tests"))


class TextTest(unittest.TestCase):
    """The terminal."""

    def test_words_from_outside_are_harmless(self) -> None:
        """A name or a note that would control the terminal is shown as text."""
        terminal = io.StringIO()
        Text(terminal, stdout=terminal, verbosity=NORMAL).note("name\x1b[2J\r\x1b[32mgreen\x1b[0m")
        self.assertEqual("name\\x1b[2J\\r\x1b[32mgreen\x1b[0m\n", terminal.getvalue())

    def test_progress(self) -> None:
        """On a terminal the last line is what takes a while; other text takes its place."""
        terminal = io.StringIO()
        vars(terminal)["isatty"] = lambda: True
        text = Text(terminal, stdout=io.StringIO(), verbosity=NORMAL)
        text.told("db", "1 of 80 MB", over=False)
        text.tick([])
        text.told("db", "pulled", over=True)
        text.tick([])
        self.assertEqual("0/0  db: 1 of 80 MB\r\x1b[Kdb: pulled\n", terminal.getvalue())
