"""The live line of a terminal."""

from __future__ import annotations

import io
import unittest
from typing import TYPE_CHECKING, cast

from orchestrator.runner.ledger import Account
from orchestrator.runner.member import Member
from orchestrator.runner.reports.live import Live
from orchestrator.runner.unit import Test, Unit

if TYPE_CHECKING:
    from orchestrator.runner.process import Process


class LiveTest(unittest.TestCase):
    """Live line."""

    def test_where_a_worker_is(self) -> None:
        """Each worker is at a test, else at a fixture, else at a unit it has been given."""
        test = Test(id="m.A.test_a", owner="m.A", title="")
        account = Account(
            unit=Unit(key="m.A", tests=(test,), files={}, services={}), order=range(1)
        )
        for phase, ordinal, place in (
            ("", None, "m.A"),
            ("setUpClass (m.A)", None, "setUpClass (m.A)"),
            ("setUpClass (m.A)", 0, "m.A.test_a"),
        ):
            with self.subTest(place=place):
                member = Member(
                    process=cast("Process", None),  # the line asks nothing of it
                    number=3,
                    account=account,
                    phase=phase,
                    ordinal=ordinal,
                )
                terminal = io.StringIO()
                Live(terminal).show([member])
                self.assertEqual(f"0/0  [3] {place} 0s", terminal.getvalue().lstrip("\r\x1b[K"))
