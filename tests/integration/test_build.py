"""`Container(build=…)`: images made from a Dockerfile by the real engine."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from orchestrator import Build, Container, ServicesMixin
from orchestrator.engine import connect, find_endpoint
from orchestrator.probes import LogLine
from orchestrator.sessions import own_session
from orchestrator.settings import Settings
from tests.support.classes import LeakCheckedTestCase, problems, run_class
from tests.support.processes import ProcessTestCase

DOCKERFILE = """
FROM redis AS base
ARG WHO=world
COPY greeting /greeting
ENV WHO=$WHO
ENTRYPOINT ["sh", "-c", "echo $(cat /greeting) $WHO; exec sleep 60"]
"""


class BuildTest(LeakCheckedTestCase):
    """A folder becomes an image that stands on locked ones."""

    def setUp(self) -> None:
        """Write a recipe."""
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "Dockerfile").write_text(DOCKERFILE)
        (self.folder / "greeting").write_text("hello")

    def run_build(self, build: str | Path | Build, line: str) -> str:
        """Run a class on the image and return the image's name."""
        seen: list[str] = []

        class Built(ServicesMixin, unittest.TestCase):
            box = Container(build=build, probe=LogLine(line))

            def test_it(self) -> None:
                seen.append(str(self.box.info()["image"]))

        result = run_class(Built)
        self.assertTrue(result.wasSuccessful(), problems(result))
        return seen[0]

    def test_args_and_another_dockerfile(self) -> None:
        """What a Build says beside the folder."""
        (self.folder / "Dockerfile").rename(self.folder / "Other")
        build = Build(folder=self.folder, dockerfile="Other", args={"WHO": "you"}, target="base")
        self.run_build(build, "^hello you$")

    def test_the_same_content_is_built_once(self) -> None:
        """A second class, from a copy of the folder, gets the same image; other content another."""
        first = self.run_build(self.folder, "^hello world$")
        self.assertRegex(first, "^orchestrator/built:")
        with tempfile.TemporaryDirectory() as copy:
            for name in ("Dockerfile", "greeting"):
                (Path(copy) / name).write_bytes((self.folder / name).read_bytes())
            self.assertEqual(first, self.run_build(copy, "^hello world$"))
        (self.folder / "greeting").write_text("bye")
        self.assertNotEqual(first, self.run_build(self.folder, "^bye world$"))
        (self.folder / "greeting").write_text("hello")
        other = self.run_build(Build(folder=self.folder, args={"WHO": "you"}), "^hello you$")
        self.assertNotEqual(first, other)

    def test_what_is_ignored_is_not_sent(self) -> None:
        """A file that .dockerignore names does not change the image."""
        (self.folder / ".dockerignore").write_text("# remark\n*.log\n")
        first = self.run_build(self.folder, "^hello world$")
        (self.folder / "noise.log").write_text("noise")
        self.assertEqual(first, self.run_build(self.folder, "^hello world$"))

    def failing(self, build: str | Path) -> str:
        """Run a class that cannot start, and return what it says."""

        class Fails(ServicesMixin, unittest.TestCase):
            box = Container(build=build)

            def test_it(self) -> None:
                """Never reached."""

        return problems(run_class(Fails))

    def test_a_failed_build_shows_its_last_lines_and_is_not_waited_for(self) -> None:
        """The engine said no: no watchdog stays behind for an image that might yet appear."""
        (self.folder / "Dockerfile").write_text("FROM redis\nRUN echo so far so good; exit 7\n")
        settings, endpoint = Settings.from_environment(), find_endpoint()
        engine = connect(settings, endpoint=endpoint)
        self.addCleanup(engine.close)
        session = own_session(engine, endpoint=endpoint, settings=settings)
        before = session.unsettled
        self.assertRegex(self.failing(self.folder), r"(?s)7.*so far so good")
        self.assertEqual(before, session.unsettled)

    def test_a_base_that_is_not_locked_is_refused(self) -> None:
        """The lock counts for what an image is built from, too."""
        (self.folder / "Dockerfile").write_text("FROM nginx:1.27\n")
        text = self.failing(self.folder)
        self.assertIn("ImageNotLockedError", text)
        self.assertIn("nginx:1.27", text)

    def test_a_missing_folder_is_named(self) -> None:
        """With the file that was looked for."""
        text = self.failing(self.folder / "none")
        self.assertIn("DeclarationError", text)
        self.assertIn("none/Dockerfile", text)


class BuildLifetimeTest(ProcessTestCase):
    """An image that was built goes with the process that built it."""

    def test_nothing_is_left_when_the_process_ends(self) -> None:
        """Container, network and image are gone."""
        (self.folder / "Dockerfile").write_text(DOCKERFILE)
        (self.folder / "greeting").write_text("hello")
        self.write(
            "test_built.py",
            """
            import unittest
            from orchestrator import Container, ServicesMixin

            class BuiltTest(ServicesMixin, unittest.TestCase):
                box = Container(build=".")

                def test_it(self):
                    print("image:", self.box.info()["image"])
            """,
        )
        status, output = self.run_python("-m", "unittest", "test_built")
        self.assertEqual(0, status, output)
        self.assertIn("image: orchestrator/built:", output)
        self.assertEqual([], self.left())
