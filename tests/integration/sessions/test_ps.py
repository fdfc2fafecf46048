"""``python -m orchestrator ps``."""

from __future__ import annotations

import json
import uuid

from orchestrator.engine import labels
from tests.integration.sessions.case import CommandTestCase


class PsTest(CommandTestCase):
    """What is running now."""

    def test_table(self) -> None:
        """Each thing has a line with its session, owner, class and service, in aligned columns."""
        session = str(uuid.uuid4())
        mine = {labels.SESSION: session, labels.SERVICE: "db"}
        names = [self.plant(self.alive, **mine), self.plant(self.dead)]
        status, out, err = self.command("ps")
        self.assertEqual((0, ""), (status, err))
        head, *lines = out.splitlines()
        rows = {name: next(line for line in lines if name in line) for name in names}
        self.assertTrue(rows[names[0]].startswith(session[:8]))
        for title, text in (
            ("OWNER", f"alive: pid {self.alive.pid} on "),
            ("CLASS", "shop.CheckoutTest"),
            ("SERVICE", "db"),
            ("KIND", "volume"),
            ("NAME", names[0]),
        ):
            self.assertEqual(text, rows[names[0]][head.index(title) :][: len(text)])
        self.assertIn("dead: pid", rows[names[1]])
        self.assertIn("`python -m orchestrator reap` removes what dead owners left", out)

    def test_json(self) -> None:
        """--json is an array with everything about each thing."""
        name = self.plant(self.alive)
        status, out, _err = self.command("ps", "--json")
        self.assertEqual(0, status)
        [thing] = [thing for thing in json.loads(out) if thing["name"] == name]
        self.assertEqual("alive", thing["owner"])
        self.assertEqual(self.run_id, thing["run"])
