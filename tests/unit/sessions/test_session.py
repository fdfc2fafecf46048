"""What a session puts on everything it creates, and the gate that every create passes."""

from __future__ import annotations

import re
import threading
import unittest
import uuid
from datetime import UTC, datetime

from orchestrator.engine import Endpoint
from orchestrator.sessions.identity import Identity, this_process
from orchestrator.sessions.session import Gate, Session


class SessionTest(unittest.TestCase):
    """A session that has not created anything, and that nobody watches."""

    def setUp(self) -> None:
        """Make it."""
        super().setUp()
        self.session = Session(endpoint=Endpoint(url="unix:///nowhere"))

    def test_labels(self) -> None:
        """Every label that is known is there, the owner's readable; what is not known is absent."""
        labels = self.session.labels(test_class="a.B", scope="class")
        prefix = "dev.orchestrator"
        created = datetime.fromisoformat(labels.pop(f"{prefix}.created"))
        self.assertLess(abs((datetime.now(UTC) - created).total_seconds()), 3600)
        self.assertEqual(this_process(), Identity.from_label(labels.pop(f"{prefix}.owner")))
        expected = {
            prefix: "1",
            f"{prefix}.session": str(uuid.UUID(self.session.id)),
            f"{prefix}.run": self.session.id,
            f"{prefix}.class": "a.B",
            f"{prefix}.scope": "class",
        }
        self.assertEqual(expected, labels)

    def test_names(self) -> None:
        """Names are unique and fit Docker, whatever the hint."""
        hints = ("db", "db", "", "Ünïcode shop", "a/b c", "x" * 300, "..", "trailing-")
        names = [self.session.name(hint) for hint in hints]
        self.assertEqual(len(hints), len(set(names)))
        for name in names:
            self.assertRegex(name, re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9]$"))
        self.assertTrue(names[0].startswith(f"orchestrator-{self.session.id[:8]}-"))
        self.assertTrue(names[0].endswith("-db"))


class GateTest(unittest.TestCase):
    """Whoever is in may finish; nobody else gets in."""

    def test_waits_for_other_threads(self) -> None:
        """It lets nobody in, and is empty when the creates of all threads are over."""
        gate, entered, go = Gate(), threading.Event(), threading.Event()

        def create() -> None:
            ticket = gate.enter()
            entered.set()
            go.wait()
            gate.leave(ticket)

        thread = threading.Thread(target=create)
        thread.start()
        entered.wait()
        gate.close()
        self.assertIsNone(gate.enter())
        self.assertFalse(gate.wait_until_empty(seconds=0.01))
        go.set()
        self.assertTrue(gate.wait_until_empty(seconds=30))
        thread.join()

    def test_nobody_slips_through(self) -> None:
        """Of many threads that enter while it closes, each is refused or waited for."""
        for _ in range(50):
            gate, late = Gate(), threading.Event()
            start, wrong = threading.Barrier(5), threading.Event()
            threads = [
                threading.Thread(target=_enter_for_ever, args=(gate, start, late, wrong))
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            start.wait()
            gate.close()
            self.assertTrue(gate.wait_until_empty(seconds=30))
            late.set()
            for thread in threads:
                thread.join()
            self.assertFalse(wrong.is_set(), "entered after the gate was closed and empty")


def _enter_for_ever(
    gate: Gate, start: threading.Barrier, late: threading.Event, wrong: threading.Event
) -> None:
    start.wait()
    while (ticket := gate.enter()) is not None:
        if late.is_set():
            wrong.set()
        gate.leave(ticket)
