"""Ending a run early."""

from __future__ import annotations

import unittest
from types import SimpleNamespace
from typing import Any

from orchestrator.runner.member import Ending, State
from orchestrator.runner.patience import Patience
from orchestrator.runner.shutdown import Shutdown


class ShutdownTest(unittest.TestCase):
    """Shutdown."""

    def test_told_when_it_is_done(self) -> None:
        """Workers are stopped before anybody is told: whoever reads it may let tests go on."""
        happened: list[str] = []
        member = SimpleNamespace(
            state=State.RUNNING,
            ending=Ending.NONE,
            stop=lambda _: happened.append("stop"),
            interrupt=lambda _: happened.append("interrupt"),
        )
        crew: Any = SimpleNamespace(members=[member], running=lambda: [None])
        dispatcher: Any = SimpleNamespace(cancel=lambda: happened.append("cancel"))
        text: Any = SimpleNamespace(note=lambda _: happened.append("note"))
        shutdown = Shutdown(crew, dispatcher, text=text, patience=Patience())
        for count in (1, 2):
            shutdown.heed(SimpleNamespace(count=count, urgent=False))  # type: ignore[arg-type]
        self.assertEqual(
            ["cancel", "stop", "note", "cancel", "stop", "interrupt", "note"], happened
        )
