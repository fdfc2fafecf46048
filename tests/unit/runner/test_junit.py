"""The JUnit report against the schema that CI systems agree on."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path
from xml.etree import ElementTree as ET

import xmlschema
from hypothesis import given, settings
from hypothesis import strategies as some

from orchestrator.runner.ledger import Account, Ledger
from orchestrator.runner.outcome import Outcome, Problem
from orchestrator.runner.output import Output
from orchestrator.runner.reports import junit
from orchestrator.runner.run import Run
from orchestrator.runner.unit import Test, Unit

SCHEMA = xmlschema.XMLSchema(Path(__file__).with_name("junit.xsd"))
ANY_TEXT = some.text(some.characters(categories=["L", "N", "P", "S", "Z", "C"]), max_size=12)
OUTPUTS = some.builds(Output, out=ANY_TEXT, err=ANY_TEXT)
FAILED = (Outcome.FAILURE, Outcome.ERROR, Outcome.UNEXPECTED_SUCCESS)


@some.composite
def _problems(draw: some.DrawFn) -> Problem:
    return Problem(
        outcome=draw(some.sampled_from(FAILED)),
        title=draw(ANY_TEXT),
        kind=draw(ANY_TEXT),
        message=draw(ANY_TEXT),
        text=draw(ANY_TEXT),
    )


@some.composite
def _accounts(draw: some.DrawFn) -> Account:
    owner = "module." + draw(ANY_TEXT)
    count = draw(some.integers(1, 4))
    tests = tuple(Test(id=f"{owner}.{draw(ANY_TEXT)}", owner=owner, title="") for _ in range(count))
    unit = Unit(key=owner, tests=tests, files={owner: draw(ANY_TEXT)}, services={})
    account = Account(unit=unit, order=range(count))
    for ordinal in range(count):
        account.enter_one(
            ordinal,
            draw(some.sampled_from(Outcome)),
            problems=tuple(draw(some.lists(_problems(), max_size=2))),
            reason=draw(ANY_TEXT),
            seconds=draw(some.floats(0, 1e6)),
        )
    account.fixtures = [
        (draw(some.sampled_from([owner, ""])), p) for p in draw(some.lists(_problems(), max_size=2))
    ]
    account.outputs = draw(some.dictionaries(some.just(owner), OUTPUTS))
    account.facts = draw(some.dictionaries(some.just(owner), some.dictionaries(ANY_TEXT, ANY_TEXT)))
    return account


class JunitTest(unittest.TestCase):
    """JUnit."""

    @settings(max_examples=25)
    @given(some.lists(_accounts(), max_size=3), some.just("") | ANY_TEXT)
    def test_schema(self, accounts: list[Account], trouble: str) -> None:
        """Whatever a run brought, the report is valid, and counts every test once."""
        run = Run(
            ledger=Ledger(accounts), started=0.0, seconds=1.0, status=1, trouble=trouble.strip()
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "new" / "junit.xml"
            junit.write(run, path)
            SCHEMA.validate(path)
            report = ET.parse(path).getroot()
            self.assertEqual([path], list(path.parent.iterdir()))
        tests = sum(len(account.records) + len(account.fixtures) for account in accounts)
        self.assertEqual(tests + bool(trouble.strip()), len(list(report.iter("testcase"))))
        self.assertEqual(str(len(list(report.iter("testcase")))), report.get("tests"))
