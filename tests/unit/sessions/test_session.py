"""Labels and names."""

from __future__ import annotations

import re
import unittest
import uuid
from datetime import UTC, datetime

from orchestrator.engine import Endpoint
from orchestrator.sessions.identity import Identity, this_process
from orchestrator.sessions.session import Session


class SessionTest(unittest.TestCase):
    """What a session puts on everything it creates."""

    def setUp(self) -> None:
        """Make a session; it has not created anything, and nobody watches it."""
        super().setUp()
        self.session = Session(endpoint=Endpoint(url="unix:///nowhere"))

    def test_all_labels(self) -> None:
        """Every label of the project is there, the owner's readable."""
        labels = self.session.labels(test_class="a.B", service="db", scope="class")
        prefix = "dev.orchestrator"
        self.assertEqual("1", labels[prefix])
        self.assertEqual(self.session.id, str(uuid.UUID(labels[f"{prefix}.session"])))
        self.assertEqual(self.session.id, labels[f"{prefix}.run"])
        self.assertEqual(this_process(), Identity.from_label(labels[f"{prefix}.owner"]))
        self.assertEqual("a.B", labels[f"{prefix}.class"])
        self.assertEqual("db", labels[f"{prefix}.service"])
        self.assertEqual("class", labels[f"{prefix}.scope"])
        created = datetime.fromisoformat(labels[f"{prefix}.created"])
        self.assertLess(abs((datetime.now(UTC) - created).total_seconds()), 3600)

    def test_what_is_not_known_is_not_labelled(self) -> None:
        """A network has no service label, not an empty one."""
        self.assertNotIn("dev.orchestrator.service", self.session.labels(test_class="a.B"))

    def test_run(self) -> None:
        """A run that was given is kept."""
        session = Session(endpoint=Endpoint(url="unix:///nowhere"), run="shared")
        self.assertEqual("shared", session.labels()["dev.orchestrator.run"])

    def test_names(self) -> None:
        """Names are unique and fit Docker, whatever the hint."""
        hints = ("db", "db", "", "Ünïcode shop", "a/b c", "x" * 300, "..", "trailing-")
        names = [self.session.name(hint) for hint in hints]
        self.assertEqual(len(hints), len(set(names)))
        for name in names:
            self.assertRegex(name, re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9]$"))
        self.assertTrue(names[0].startswith(f"orchestrator-{self.session.id[:8]}-"))
        self.assertTrue(names[0].endswith("-db"))
