"""`Container(build=…)`: images made from a Dockerfile by the real engine."""

from __future__ import annotations

import os
import shutil
import tempfile
import unittest
from pathlib import Path
from typing import ClassVar

from orchestrator import Build, Container, ServicesMixin
from orchestrator.engine import connect, find_endpoint
from orchestrator.probes import LogLine
from orchestrator.sessions import own_session
from orchestrator.settings import Settings
from tests.support.classes import LeakCheckedTestCase
from tests.support.processes import ProcessTestCase

DOCKERFILE = """
FROM redis AS base
ARG WHO=world
COPY greeting /greeting
ENV WHO=$WHO
ENTRYPOINT ["sh", "-c", "echo $(cat /greeting) $WHO; exec sleep 600"]
"""


class BuildTest(ServicesMixin, unittest.TestCase):
    """A folder becomes an image that stands on locked ones."""

    root: ClassVar[Path] = Path(tempfile.gettempdir()) / f"orchestrator-build-{os.getpid()}"

    box = Container(build=root / "box", probe=LogLine("^hello world$"))
    copy = Container(build=root / "copy", probe=LogLine("^hello world$"))
    changed = Container(build=root / "changed", probe=LogLine("^bye world$"))
    other = Container(
        build=Build(folder=root / "box", dockerfile="Other", args={"WHO": "you"}, target="base"),
        probe=LogLine("^hello you$"),
    )

    @classmethod
    def setUpClass(cls) -> None:
        """Write three folders: a copy has more files, which are left out, and one other content."""
        cls.addClassCleanup(shutil.rmtree, cls.root)
        box = cls.root / "box"
        box.mkdir(parents=True)
        for name in ("Dockerfile", "Other"):
            (box / name).write_text(DOCKERFILE)
        (box / "greeting").write_text("hello")
        (box / ".dockerignore").write_text("# remark\n*.log\n")
        for name in ("copy", "changed"):
            shutil.copytree(box, cls.root / name)
        (cls.root / "copy" / "noise.log").write_text("noise")
        (cls.root / "changed" / "greeting").write_text("bye")
        super().setUpClass()

    def test_the_same_content_is_one_image(self) -> None:
        """Whatever folder it is in, without what is ignored; other content or arguments another."""
        image = str(self.box.info()["image"])
        self.assertRegex(image, "^orchestrator/built:")
        self.assertEqual(image, self.copy.info()["image"])
        self.assertEqual(3, len({image, self.changed.image, self.other.image}))


class FailingBuildTest(LeakCheckedTestCase):
    """What cannot be built, and is told so."""

    def failing(self, dockerfile: str, *parts: str) -> None:
        """Expect these parts in the error of a class whose image is built from this."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / dockerfile.partition(" ")[0]).write_text(dockerfile)

            class Fails(ServicesMixin, unittest.TestCase):
                box = Container(build=Build(folder=folder, dockerfile="FROM"))

                def test_it(self) -> None: ...

            self.assert_error(Fails, *parts)

    def test_a_failed_build_shows_its_last_lines_and_is_not_waited_for(self) -> None:
        """The engine said no: no watchdog stays behind for an image that might yet appear."""
        settings, endpoint = Settings.from_environment(), find_endpoint()
        engine = connect(settings, endpoint=endpoint)
        self.addCleanup(engine.close)
        session = own_session(engine, settings=settings)
        before = session.unsettled
        self.failing("FROM redis\nRUN echo so far so good; exit 7\n", "7", "so far so good")
        self.assertEqual(before, session.unsettled)

    def test_a_base_that_is_not_locked_is_refused(self) -> None:
        """The lock counts for what an image is built from, too."""
        self.failing("FROM nginx:1.27\n", "ImageNotLockedError", "nginx:1.27")

    def test_a_missing_dockerfile_is_named(self) -> None:
        """With the file that was looked for."""
        self.failing("RUN nothing", "DeclarationError", "/FROM")


class BuildLifetimeTest(ProcessTestCase):
    """An image that was built goes with the process that built it."""

    def test_nothing_is_left_when_the_process_ends(self) -> None:
        """Container, network and image are gone."""
        (self.folder / "Dockerfile").write_text("FROM redis\n")
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
