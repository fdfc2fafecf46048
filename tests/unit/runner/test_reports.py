"""The reports: JUnit against the schema that CI systems agree on, and what a terminal is shown."""

from __future__ import annotations

import io
import tempfile
import unittest
from pathlib import Path
from xml.etree import ElementTree as ET

import xmlschema
from hypothesis import given, settings
from hypothesis import strategies as some

from orchestrator.runner import junit_report
from orchestrator.runner.options import NORMAL
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
