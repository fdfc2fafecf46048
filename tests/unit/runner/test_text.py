"""The report on the terminal."""

from __future__ import annotations

import io
import unittest

from orchestrator.runner.arguments import NORMAL, VERBOSE
from orchestrator.runner.ledger import Account, Ledger
from orchestrator.runner.outcome import Outcome
from orchestrator.runner.reports.text import Text
from orchestrator.runner.run import OK, Run
from orchestrator.runner.unit import Test, Unit


class TextTest(unittest.TestCase):
    """Text."""

    def test_durations(self) -> None:
        """Quick tests are not among the slowest, except with -v; as in unittest."""
        hidden = "\n(durations < 0.001s were hidden; use -v to show these durations)\n"
        self.assertIn(f"0.002s     slow\n{hidden}", self._summary(verbosity=NORMAL))
        self.assertIn("0.002s     slow\n0.001s     quick\n", self._summary(verbosity=VERBOSE))

    def test_words_from_outside_are_harmless(self) -> None:
        """A name or a note that would control the terminal is shown as text."""
        terminal = io.StringIO()
        Text(terminal, stdout=terminal, verbosity=NORMAL).note("name\x1b[2J\r\x1b[32mgreen\x1b[0m")
        self.assertEqual("name\\x1b[2J\\r\x1b[32mgreen\x1b[0m\n", terminal.getvalue())

    def _summary(self, *, verbosity: int) -> str:
        seconds = {"quick": 0.0006, "slow": 0.002}
        tests = tuple(Test(id=f"m.A.{name}", owner="m.A", title=name) for name in seconds)
        unit = Unit(key="m.A", tests=tests, files={}, services={})
        account = Account(unit=unit, order=range(len(tests)))
        for ordinal, test in enumerate(tests):
            account.enter_one(ordinal, Outcome.OK, seconds=seconds[test.title])
        terminal = io.StringIO()
        run = Run(ledger=Ledger([account]), started=0.0, seconds=1.0, status=OK, trouble="")
        Text(terminal, stdout=terminal, verbosity=verbosity).summary(run, durations=0)
        return terminal.getvalue()
