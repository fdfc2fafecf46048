"""``ORCHESTRATOR_KEEP_FAILED=1``: the servers of a class that failed stay to be looked into."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path
from unittest import mock

from orchestrator import Container, Postgres, Redis, ServicesMixin
from orchestrator.engine import connect, find_endpoint
from orchestrator.engine.api import Label
from orchestrator.probes import LogLine
from orchestrator.sessions import inventory, reap, remove_session
from orchestrator.settings import Settings
from tests.support.classes import left_of_this_process, problems, run_class
from tests.support.processes import run_command

SLEEP = ["sleep", "600"]
ALL = ["container kept", "network kept", "volume kept"]
RUN = """
import unittest
from orchestrator import Container, ServicesMixin

class {name}(ServicesMixin, unittest.TestCase):
    box = Container(image="python", command={command})
    def test_it(self): self.fail("on purpose")
"""


def passes(case: unittest.TestCase) -> None:
    """A test."""


def fails(case: unittest.TestCase) -> None:
    """Another."""
    case.fail("on purpose")


class KeepFailedTest(unittest.TestCase):
    """Classes that are run in this process, and in others."""

    def setUp(self) -> None:
        """Look after what stays."""
        super().setUp()
        self.engine = connect(Settings(), endpoint=find_endpoint())
        self.addCleanup(self.engine.close)
        self.enterContext(mock.patch.dict(os.environ, {"ORCHESTRATOR_KEEP_FAILED": "1"}))
        self.name = f"Kept{os.urandom(4).hex()}"
        self.test_class = f"{__name__}.{self.name}"

    def tearDown(self) -> None:
        """Remove what is kept of this test's class."""
        for thing in inventory(self.engine, labelled={Label.CLASS: self.test_class}).things:
            run_command("reap", "--session", thing.session)
        self.assertEqual([], self.kept())
        super().tearDown()

    def failing(self, **attributes: object) -> type[unittest.TestCase]:
        """A class with one server, and what makes it fail: its test, or what is given."""
        body = {
            "box": Container(image="python", command=SLEEP),
            "test_it": passes if attributes else fails,
            "__module__": __name__,
            **attributes,
        }
        return type(self.name, (ServicesMixin, unittest.TestCase), body)

    def kept(self) -> list[str]:
        """Kinds of what is there of this test's class, each with a word when it is kept."""
        found = inventory(self.engine, labelled={Label.CLASS: self.test_class}).things
        return sorted(f"{it.kind}{' kept' if it.kept else ''}" for it in found)

    def run_quietly(self, cls: type[unittest.TestCase]) -> tuple[str, str]:
        """The failures of a class, and what else was printed."""
        with contextlib.redirect_stderr(io.StringIO()) as err:
            return problems(run_class(cls)), err.getvalue()

    def test_what_failed_stays_until_the_next_run(self) -> None:
        """Its container and network; whoever cleans up spares them, and the next run does not."""
        text, printed = self.run_quietly(self.failing())
        self.assertEqual(ALL, self.kept())
        [box] = [
            it
            for it in inventory(self.engine, labelled={Label.CLASS: self.test_class}).things
            if it.kind == "container"
        ]
        self.assertEqual("running", box.status)
        self.assertEqual(1, text.count(f"docker exec -it {box.name} sh; docker logs {box.name}"))
        self.assertIn("until its next run, or: python -m orchestrator reap", text)
        self.assertEqual("", printed)
        self.assertEqual([], remove_session(self.engine, box.session))  # as a watchdog does it
        reap(self.engine)  # as a sweep does it
        self.assertEqual(ALL, self.kept())
        [row] = [line for line in run_command("ps").out.splitlines() if box.id[:12] in line]
        self.assertIn("running, kept", row)
        self.assertRegex(run_command("doctor").out, f"kept until `reap`.*{self.test_class}")
        self.assertEqual(("", ""), self.run_quietly(self.failing(test_it=passes)))
        self.assertEqual([], self.kept())

    def test_fixtures(self) -> None:
        """A start, a tearDownClass and a clean-up that fail; a skip does not."""

        @classmethod  # type: ignore[misc]
        def skips(cls: type) -> None:
            ServicesMixin.setUpClass.__func__(cls)  # type: ignore[attr-defined]
            raise unittest.SkipTest("not today")

        self.enterContext(mock.patch.dict(os.environ, ORCHESTRATOR_STARTUP_TIMEOUT=""))
        never = LogLine("never")
        broken = Container(image="python", command=SLEEP, probe=never, startup_timeout=0.5)
        for attributes in (
            {"box": broken},
            {"tearDownClass": classmethod(lambda _: 1 / 0)},
            {"test_it": lambda case: case.addClassCleanup(lambda: 1 / 0)},
        ):
            with self.subTest(attributes):
                text, printed = self.run_quietly(self.failing(**attributes))
                self.assertEqual(1, f"{text}{printed}".count("docker exec -it"), text)
                self.assertEqual(ALL, self.kept())
        self.run_quietly(self.failing(setUpClass=skips))
        self.assertEqual([], left_of_this_process())

    def test_server_of_a_test(self) -> None:
        """That of a test that failed stays, and that of one that passed does not."""
        own = Container(image="python", command=SLEEP, scope="test")
        text, _ = self.run_quietly(self.failing(own=own, test_fails=fails))
        self.assertEqual(2, text.count("docker exec -it"))
        self.assertEqual(["container kept", *ALL, "volume kept"], self.kept())

    def test_a_way_in(self) -> None:
        """The commands need no password."""
        servers = {"db": Postgres(username="bob"), "cache": Redis(), "secured": Redis(tls=True)}
        text, _ = self.run_quietly(self.failing(**servers, test_it=fails))
        for alias, question, answer in (
            ("db", "select 6 * 7", "42"),
            ("cache", "ping", "PONG"),
            ("secured", "ping", "PONG"),
        ):
            [command] = re.findall(rf"  {alias}: (docker exec) -it (.*);", text)
            argv = shlex.split(" -i ".join(command))
            asked = subprocess.run(
                argv, check=False, input=question, capture_output=True, text=True
            )
            with self.subTest(alias):
                self.assertIn(answer, asked.stdout, asked.stderr)

    def test_every_runner(self) -> None:
        """What failed is there when the process has ended, and the commands are in its output."""
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        code = RUN.format(name=self.name, command=SLEEP)
        (folder / "test_kept.py").write_text(textwrap.dedent(code), encoding="utf-8")
        self.test_class = f"test_kept.{self.name}"
        for argv in (
            ("orchestrator", "test", "-j", "2", "test_kept"),
            ("pytest", "-p", "no:cacheprovider", "-rN", "test_kept.py"),
        ):
            with self.subTest(argv):
                command = [sys.executable, "-m", *argv]
                ran = subprocess.run(
                    command, cwd=folder, check=False, capture_output=True, text=True
                )
                self.assertEqual(1, ran.returncode, ran)
                self.assertEqual(1, (ran.stdout + ran.stderr).count("docker exec -it"), ran)
                self.assertEqual(ALL, self.kept())
