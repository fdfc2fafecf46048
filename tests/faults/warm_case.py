"""Runs of a user's test file with ORCHESTRATOR_WARM, and the keepers that they leave."""

from __future__ import annotations

import os
import signal
import unittest.mock
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.engine.api import Label
from orchestrator.environment import warm
from orchestrator.sessions import snapshot
from tests.support.processes import ProcessTestCase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TEST = """
    import sys, unittest
    from orchestrator import Redis, ServicesMixin

    class WarmTest(ServicesMixin, unittest.TestCase):
        cache = Redis()

        def test_nothing_is_there(self):
            print("served by", self.cache.container_id, file=sys.stderr)
            self.assertEqual(0, self.cache.client.dbsize())
            self.cache.client.set("trace", "of the class before")
"""


class WarmTestCase(ProcessTestCase):
    """A test whose runs keep servers warm, in a folder of its own; none is left when it ends."""

    def setUp(self) -> None:
        """Have the folder, and end every keeper after the test."""
        super().setUp()
        self.environ |= {"ORCHESTRATOR_WARM": "5m", "TMPDIR": str(self.folder)}
        self.sessions: set[str] = set()
        self.addCleanup(self._end_keepers)
        self.write("test_warm.py", TEST)

    def serve(self, *argv: str) -> str:
        """Run the tests, which pass: the id of the container that served them."""
        return self.served(*self.run_python(*(argv or ("-m", "unittest", "test_warm"))))

    def served(self, status: int, output: str) -> str:
        """The id of the container that served a run, which has passed."""
        self.assertEqual(0, status, output)
        found = [line.split()[-1] for line in output.splitlines() if "served by" in line]
        self.assertEqual(1, len(found), output)
        return found[0]

    def keepers(self) -> Sequence[Mapping[str, Any]]:
        """What each keeper says of itself."""
        with unittest.mock.patch.dict(os.environ, {"TMPDIR": str(self.folder)}):
            found = warm.keepers()
        self.sessions |= {it["session"] for it in found if it["session"]}
        return found

    def keeper(self, state: str = "ready") -> Mapping[str, Any]:
        """The one keeper, as soon as it is in this state."""
        self.await_that(lambda: [it["state"] for it in self.keepers()] == [state], self.told)
        return self.keepers()[0]

    def told(self) -> str:
        """What there is to say when a keeper is not as expected."""
        logs = [path.read_text() for path in self.folder.glob("orchestrator-*/log")]
        return f"keepers: {self.keepers()}; their log: {logs}"

    def kept(self, session: str) -> Sequence[str]:
        """The ids of the containers of a keeper's session."""
        things = snapshot(self.engine, {Label.SESSION: session})[0]
        return [it.id for it in things if it.kind == "container"]

    def await_gone(self, session: str) -> None:
        """Fail unless the daemon soon has nothing of a session."""

        def left() -> Sequence[str]:
            return [it.name for it in snapshot(self.engine, {Label.SESSION: session})[0]]

        self.await_that(lambda: not left(), lambda: f"left behind: {left()}")

    def _end_keepers(self) -> None:
        self.await_that(self._ended, self.told)
        for session in self.sessions:
            self.await_gone(session)

    def _ended(self) -> bool:
        """Stop every keeper, those too that a run started a moment ago; whether none is left."""
        for keeper in self.keepers():
            with suppress(ProcessLookupError):
                os.kill(keeper["pid"], signal.SIGCONT)
            warm.stop(keeper["socket"])
        return not self._processes() and not self.keepers()

    def _processes(self) -> Sequence[Path]:
        """The processes whose temporary folder is this test's: keepers and their watchdogs."""
        told = f"TMPDIR={self.folder}".encode()
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if told in environ.read_bytes().split(b"\0"):
                    found.append(environ.parent)
        return found
