"""``python -m orchestrator ps``."""

from __future__ import annotations

import json
import uuid

from orchestrator.engine.api import Label
from tests.integration.sessions.case import CommandTestCase


class PsTest(CommandTestCase):
    """What is running now."""

    def test_table(self) -> None:
        """Each thing has a line with its session, owner, class and service, in aligned columns."""
        session = str(uuid.uuid4())
        mine = {Label.SESSION: session, Label.SERVICE: "db"}
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
            ("ID", names[0]),
        ):
            self.assertEqual(text, rows[names[0]][head.index(title) :][: len(text)])
        self.assertIn("dead: pid", rows[names[1]])
        self.assertRegex(
            out, r"\n\d+ of owners that are dead.* `python -m orchestrator reap` removes"
        )

    def test_labels_forge_no_row(self) -> None:
        """Whatever they hold stands in their own row, as text; --json has it exactly."""
        evil = f"a\nb\x1b[2J\u202e\t{' ' * 200}c"
        name = self.plant(self.dead, **{Label.CLASS: evil, Label.SESSION: "\nx", Label.OWNER: evil})
        status, out, _err = self.command("ps")
        self.assertEqual(0, status)
        [row] = [line for line in out.splitlines() if name in line]
        self.assertRegex(row, r"^\\nx +malformed: ")
        self.assertIn(r"  a\nb\x1b[2J\u202e\t c  ", row)
        things = json.loads(self.command("ps", "--json")[1])
        [thing] = [it for it in things if it["name"] == name]
        self.assertEqual((evil, self.run_id), (thing["class"], thing["run"]))
        _status, out, _err = self.reap("--all")
        self.assertRegex(out, rf"^removed volume {name} \(a\\nb\\x1b.* c, .*\)\n$")
