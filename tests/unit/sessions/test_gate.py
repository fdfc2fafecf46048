"""The gate that closes when clean-up begins."""

from __future__ import annotations

import threading
import unittest

from orchestrator.sessions.session import Gate


class GateTest(unittest.TestCase):
    """Whoever is in may finish; nobody else gets in."""

    def test_closed(self) -> None:
        """A closed gate lets nobody in."""
        gate = Gate()
        self.assertIsNotNone(gate.enter())
        gate.close()
        self.assertIsNone(gate.enter())

    def test_waits_for_other_threads(self) -> None:
        """It is empty when the creates of all threads are over."""
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
        self.assertFalse(gate.wait_until_empty(seconds=0.01))
        go.set()
        self.assertTrue(gate.wait_until_empty(seconds=30))
        thread.join()

    def test_does_not_wait_for_itself(self) -> None:
        """A create that this very thread was interrupted in is not waited for."""
        gate = Gate()
        gate.enter()
        self.assertFalse(gate.wait_until_empty(seconds=3600))

    def test_nobody_slips_through(self) -> None:
        """Of many threads that enter while it closes, each is refused or waited for."""
        for _ in range(50):
            gate, inside = Gate(), [0]
            late: list[int] = []
            start = threading.Barrier(5)

            def create(
                gate: Gate = gate,
                inside: list[int] = inside,
                late: list[int] = late,
                start: threading.Barrier = start,
            ) -> None:
                start.wait()
                while (ticket := gate.enter()) is not None:
                    late += inside
                    gate.leave(ticket)

            threads = [threading.Thread(target=create) for _ in range(4)]
            for thread in threads:
                thread.start()
            start.wait()
            gate.close()
            self.assertTrue(gate.wait_until_empty(seconds=30))
            inside[0] = 1
            for thread in threads:
                thread.join()
            self.assertNotIn(1, late, "a create began after the gate was closed and empty")
