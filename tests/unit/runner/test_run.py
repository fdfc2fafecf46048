"""What a run is asked for, what its workers send, and what it reports."""

import argparse
import importlib
import io
import os
import socket
import tempfile
import unittest
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import xmlschema

from orchestrator.errors import OrchestratorError
from orchestrator.runner import junit_report
from orchestrator.runner.channel import ParentScores, WorkerEnd, WorkerScores
from orchestrator.runner.messages import (
    Collected,
    Ended,
    Finished,
    MessageError,
    Setup,
    decode,
    encode,
)
from orchestrator.runner.options import NORMAL, Options, Shard, configure, parsed
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


# Lone surrogates too: file names and broken encodings put them into messages.
UGLY = "<&]]>\x00\x1b\ud800\n\u2028é"


OWNER = f"module.{UGLY}"


TESTS = tuple(Test(id=f"{OWNER}.{it}", owner=OWNER, title=UGLY) for it in Outcome)


UNIT = Unit(key=OWNER, tests=TESTS, files={OWNER: UGLY})


PROBLEM = Problem(outcome=Outcome.ERROR, title=UGLY, kind=UGLY, message=UGLY, text=UGLY)


RECORDS = tuple(
    Record(
        test=test,
        outcome=outcome,
        problems=(PROBLEM, PROBLEM),
        reason=UGLY,
        earlier=(PROBLEM,),
        seconds=1e6,
    )
    for test, outcome in zip(TESTS, Outcome, strict=True)
)


class RunTest(unittest.TestCase):
    """Options, messages, reports."""

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

    def test_round_trip(self) -> None:
        """What is sent is what arrives, in one line of ASCII; a line that is none is an error."""
        line = b""
        for message in (
            Setup(options=Options(names=(UGLY,), shard=Shard(number=1, count=2)), report=True),
            Collected(units=(UNIT,), trouble=UGLY),
            Ended(ordinal=0, records=RECORDS, over=False),
            Finished(seconds={OWNER: 0.5}, stopped=UGLY),
        ):
            line = encode(message)
            with self.subTest(type(message).__name__):
                self.assertEqual(message, decode(line))
                self.assertTrue(line.isascii())
                self.assertEqual(1, line.count(b"\n"))
        for noise in (b"", b"\xff\n", b"[]\n", b'{"message": "Nothing"}\n', line[:-9]):
            with self.subTest(noise), self.assertRaises(MessageError):
                decode(noise)

    def test_schema(self) -> None:
        """Whatever a run brought, the report is valid, and counts every test once."""
        unit = UnitResult(
            unit=UNIT,
            order=range(len(TESTS)),
            outputs={OWNER: Output(out=UGLY, err=UGLY)},
            facts={OWNER: {UGLY: UGLY}},
        )
        for ordinal, record in enumerate(RECORDS):
            unit.record(ordinal, (record,))
        unit.fixtures = [(OWNER, PROBLEM), ("", PROBLEM)]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "new" / "junit.xml"
            junit_report.write(Results(units=[unit]), path)
            xmlschema.XMLSchema(Path(__file__).with_name("junit.xsd")).validate(path)
            report = ET.parse(path).getroot()
            self.assertEqual([path], list(path.parent.iterdir()))
        self.assertEqual(len(TESTS) + 2, len(list(report.iter("testcase"))))
        self.assertEqual(str(len(TESTS) + 2), report.get("tests"))

    def test_what_is_noted(self) -> None:
        """The test that runs, and those that passed; who cannot note it has to send it."""
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        file, noted = tempfile.mkstemp()
        self.addCleanup(os.unlink, noted)
        parent = ParentScores(file)
        self.addCleanup(os.close, file)
        worker = WorkerScores(os.dup(file), channel := WorkerEnd(theirs.detach()))
        parent.clear(3)
        worker.running(1)
        self.assertEqual(1, parent.running)
        self.assertTrue(worker.passed(1, 0.5))
        worker.over()
        self.assertEqual((None, [-1.0, 0.5, -1.0]), (parent.running, list(parent.seconds(3))))
        self.assertFalse(worker.passed(1 << 20, 0.5), "more tests than there is room for")
        os.close(channel._descriptor)
        self.assertFalse(worker.passed(2, 0.5), "the parent cannot be reached any more")

    def test_words_from_outside_are_harmless(self) -> None:
        """A name or a note that would control the terminal is shown as text."""
        terminal = io.StringIO()
        Text(terminal, stdout=terminal, verbosity=NORMAL).note("name\x1b[2J\r\x1b[32mgreen\x1b[0m")
        self.assertEqual("name\\x1b[2J\\r\x1b[32mgreen\x1b[0m\n", terminal.getvalue())
