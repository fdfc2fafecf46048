"""Scopes: how long a container lives."""

from __future__ import annotations

import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from orchestrator import Container, Redis, ServicesMixin
from tests.support.classes import LeakCheckedTestCase
from tests.support.processes import ProcessTestCase

SHARED = """
    import unittest
    from orchestrator import Container, Redis, ServicesMixin

    SEEN = set()

    class Base(ServicesMixin, unittest.TestCase):
        cache = Redis(scope="process", log_to="shop.cache")
        shell = Container(image="redis", command=["sleep", "60"])

        def test_it(self):
            SEEN.add(self.cache.container_id)
            self.assertEqual([], self.cache.client.keys())
            self.cache.client.set("left", "over")
            asked = self.shell.exec(["redis-cli", "-u", self.cache.internal_url, "ping"])
            self.assertIn("PONG", asked.output.splitlines())

    class FirstTest(Base): ...

    class KillTest(Base):
        shell = None
        def test_it(self):
            self.assertEqual({self.cache.container_id}, SEEN)
            SEEN.clear()
            self.cache.kill()

    class SecondTest(Base): ...
"""


class TestScopeTest(LeakCheckedTestCase):
    """``scope="test"``: a server for each test."""

    def test_every_test_has_a_server_of_its_own(self) -> None:
        """It may depend on the class's, is on their network, and its log is kept like theirs."""
        containers: list[str] = []

        class Each(ServicesMixin, unittest.TestCase):
            cache = Redis()
            box = Container(
                image="redis",
                entrypoint=["sh", "-c", "echo here; exec sleep 60"],
                scope="test",
                depends_on=[cache],
            )

            def test_one(self) -> None:
                self.test_two()
                asked = self.box.exec(["redis-cli", "-u", self.cache.internal_url, "ping"])
                self.assertIn("PONG", asked.output.splitlines())

            def test_two(self) -> None:
                containers.append(self.box.container_id)
                while "here" not in self.box.logs():
                    pass

        Each.__qualname__ = "../../out/\x1b[2JEach"  # a name may be anything, a folder is below
        with (
            tempfile.TemporaryDirectory() as folder,
            mock.patch.dict(os.environ, {"ORCHESTRATOR_LOGS": folder}),
        ):
            self.assert_passes(Each)
            logs = [file.read_text() for file in Path(folder).glob("*/box.log")]
            [kept] = Path(folder).iterdir()
            self.assertTrue(kept.name.isprintable())
        self.assertEqual(2, len(set(containers)))
        self.assertEqual(["here\nhere\n"], logs)

    def test_a_server_that_does_not_start_is_its_tests_error(self) -> None:
        """The test is told, and nothing is left."""

        class Broken(ServicesMixin, unittest.TestCase):
            cache = Redis(scope="test", command=["sh", "-c", "exit 3"])

            def test_it(self) -> None: ...

        self.assert_error(Broken, "cache: ", "exited with exit code 3")


class ProcessScopeTest(ProcessTestCase):
    """``scope="process"``: one server for all classes that inherit the declaration."""

    def test_subclasses_share_one_server_with_clean_state_for_each_test(self) -> None:
        """Emptied for each, on each class's network; one that a class killed is started anew.

        It belongs to no class, so its log has a folder of its own; nor does the thread that follows
        it keep the process alive.
        """
        self.environ["ORCHESTRATOR_LOGS"] = str(self.folder / "logs")
        self.write("test_shared.py", SHARED)
        classes = [f"test_shared.{name}Test" for name in ("First", "Kill", "Second")]
        status, output = self.run_python("-W", "error", "-m", "unittest", "-v", *classes)
        self.assertEqual((0, 3), (status, output.count("... ok")), output)
        self.assertIn("Ready to accept", (self.folder / "logs/process/cache.log").read_text())
