"""Scopes: how long a container lives."""

from __future__ import annotations

import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from orchestrator import Container, Postgres, Redis, ServicesMixin
from orchestrator.errors import DeclarationError
from orchestrator.probes import LogLine
from tests.support.classes import LeakCheckedTestCase
from tests.support.processes import ProcessTestCase

SHARED = """
    import unittest
    from orchestrator import Container, Redis, ServicesMixin

    SEEN = set()

    class Base(ServicesMixin, unittest.TestCase):
        cache = Redis(scope="process")
        shell = Container(image="redis", command=["sleep", "60"])

        def test_it(self):
            SEEN.add(self.cache.container_id)
            self.assertEqual([], self.cache.client.keys())
            self.cache.client.set("left", "over")
            asked = self.shell.exec(["redis-cli", "-u", self.cache.internal_url, "ping"])
            self.assertIn("PONG", asked.output.splitlines())

    class FirstTest(Base): ...

    class SecondTest(Base):
        def test_one_server_serves_all(self):
            self.assertEqual({self.cache.container_id}, SEEN)

    Shared = Base
    del Base
"""
KILLS = """
    class KillTest(Shared):
        def test_it(self):
            self.cache.kill()

    del Shared
"""


class TestScopeTest(LeakCheckedTestCase):
    """``scope="test"``: a server for each test."""

    def test_every_test_has_a_server_of_its_own(self) -> None:
        """What one test does to its server, no other sees."""
        containers: list[str] = []

        class Each(ServicesMixin, unittest.TestCase):
            cache = Redis(scope="test")

            def test_one(self) -> None:
                containers.append(self.cache.container_id)
                self.cache.client.config_set("maxmemory", "5mb")

            def test_two(self) -> None:
                containers.append(self.cache.container_id)
                self.assertEqual({"maxmemory": "0"}, self.cache.client.config_get("maxmemory"))

        self.assert_passes(Each)
        self.assertEqual(2, len(set(containers)))

    def test_it_stands_beside_the_classs_services(self) -> None:
        """Both are on one network, and the test's may depend on the class's."""

        class Both(ServicesMixin, unittest.TestCase):
            cache = Redis()
            shell = Container(
                image="redis", command=["sleep", "60"], scope="test", depends_on=[cache]
            )

            def test_it(self) -> None:
                asked = self.shell.exec(["redis-cli", "-u", self.cache.internal_url, "ping"])
                self.assertIn("PONG", asked.output.splitlines())

        self.assert_passes(Both)

    def test_a_server_that_does_not_start_is_its_tests_error(self) -> None:
        """The class's services go on; the test is told, and nothing is left."""

        class Broken(ServicesMixin, unittest.TestCase):
            cache = Redis(scope="test", command=["sh", "-c", "exit 3"])

            def test_it(self) -> None: ...

        self.assert_error(Broken, "cache exited with exit code 3")

    def test_its_log_is_kept_like_any_other(self) -> None:
        """``ORCHESTRATOR_LOGS`` has what each test's server said."""
        with (
            tempfile.TemporaryDirectory() as folder,
            mock.patch.dict(os.environ, {"ORCHESTRATOR_LOGS": folder}),
        ):

            class Kept(ServicesMixin, unittest.TestCase):
                box = Container(
                    image="redis",
                    entrypoint=["sh", "-c", "echo here; sleep 60"],
                    scope="test",
                    probe=LogLine("here"),
                )

                def test_one(self) -> None: ...

                def test_two(self) -> None: ...

            self.assert_passes(Kept)
            logs = [file.read_text() for file in Path(folder).rglob("box.log")]
        self.assertEqual(["here\nhere\n"], logs)

    def test_a_longer_life_cannot_depend_on_a_shorter_one(self) -> None:
        """A class's service that waits for a test's is refused at once."""
        with self.assertRaisesRegex(DeclarationError, "does not live as long"):

            class Upside(ServicesMixin, unittest.TestCase):
                cache = Redis(scope="test")
                db = Postgres(depends_on=[cache])


class ProcessScopeTest(ProcessTestCase):
    """``scope="process"``: one server for all classes that inherit the declaration."""

    def test_subclasses_share_one_server_with_clean_state_for_each_test(self) -> None:
        """One container, emptied for every test, reachable by alias on each class's network."""
        self.write("test_shared.py", SHARED + "    del Shared")
        status, output = self.run_python("-W", "error", "-m", "unittest", "-v", "test_shared")
        self.assertEqual(0, status, output)
        self.assertIn("Ran 3 tests", output)

    def test_its_log_is_kept_when_the_process_ends(self) -> None:
        """It belongs to no class, so it has a folder of its own."""
        self.environ["ORCHESTRATOR_LOGS"] = str(self.folder / "logs")
        self.write("test_shared.py", SHARED + "    del Shared")
        status, output = self.run_python("-m", "unittest", "test_shared.FirstTest")
        self.assertEqual(0, status, output)
        self.assertIn("Ready to accept", (self.folder / "logs/process/cache.log").read_text())

    def test_a_shared_server_that_died_is_started_anew_for_the_next_class(self) -> None:
        """One class's kill does not fail the next class."""
        self.write("test_shared.py", SHARED + KILLS)
        _, output = self.run_python(
            "-m", "unittest", "-v", "test_shared.KillTest", "test_shared.FirstTest"
        )
        self.assertIn("test_it (test_shared.FirstTest.test_it) ... ok", output)
