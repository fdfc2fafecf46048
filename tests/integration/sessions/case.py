"""Things planted on the daemon in somebody's name, and the commands run on them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import unittest
import uuid
from typing import Any, ClassVar
from unittest import mock

from orchestrator.cli import main
from orchestrator.engine.api import Label
from orchestrator.sessions.identity import Identity, this_process
from tests.faults.daemon import Daemon
from tests.faults.private_daemon import PrivateDaemon


class CommandTestCase(unittest.TestCase):
    """A run of its own for each test; nothing of it is left, pass or fail."""

    daemon: ClassVar[Daemon]

    @classmethod
    def setUpClass(cls) -> None:
        """Have a daemon that nobody else sweeps."""
        super().setUpClass()
        private = PrivateDaemon()
        cls.addClassCleanup(private.close)
        cls.daemon = Daemon(private.start().url)
        cls.addClassCleanup(cls.daemon.client.close)

    def setUp(self) -> None:
        """Know an owner that is alive and one that is dead."""
        super().setUp()
        self.run_id = str(uuid.uuid4())
        self.enterContext(mock.patch.dict(os.environ, DOCKER_HOST=self.daemon.url))
        self.addCleanup(self.daemon.remove_all, self.run_id)
        self.alive = this_process()
        self.dead = dataclasses.replace(self.alive, start=self.alive.start - 1)

    def marks(self, owner: Identity, **changed: str) -> dict[str, str]:
        """The labels of something."""
        return {
            Label.MARK: "1",
            Label.SESSION: str(uuid.uuid4()),
            Label.RUN: self.run_id,
            Label.OWNER: owner.to_label(),
            Label.CREATED: "2020-01-01T00:00:00+00:00",
            Label.CLASS: "shop.CheckoutTest",
            **changed,
        }

    def plant(self, owner: Identity, **changed: str) -> str:
        """Create a volume in somebody's name; its name."""
        name = f"orchestrator-planted-{uuid.uuid4().hex[:8]}"
        marks = self.marks(owner, **changed)
        self.daemon.client.create_volume(name, labels={Label.NAME: name, **marks})
        return name

    def command(self, *argv: str) -> tuple[int, str, str]:
        """Run a command: its exit status, stdout and stderr."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main(argv)
            except SystemExit as leave:
                status = int(leave.code or 0)
        return status, out.getvalue(), err.getvalue()

    def reap(self, *argv: str) -> tuple[int, str, str]:
        """Reap among this run's things."""
        return self.command("reap", "--run", self.run_id, *argv)

    def reap_json(self, *argv: str) -> dict[str, Any]:
        """Reap among this run's things; the report."""
        _status, out, _err = self.reap("--json", *argv)
        report: dict[str, Any] = json.loads(out)
        return report

    def left(self) -> list[str]:
        """The names of what this run still has."""
        return [thing.split()[1] for thing in self.daemon.left(self.run_id)]
