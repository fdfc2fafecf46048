"""`Container(build=…)`: images made from a Dockerfile by the real engine."""

import os
import shutil
import tempfile
import unittest
from pathlib import Path
from typing import ClassVar

from orchestrator import Build, Container, ServicesMixin
from orchestrator.probes import LogLine
from tests.support.classes import LeakCheckedTestCase

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
    other = Container(
        build=Build(folder=root / "box", dockerfile="Other", args={"WHO": "you"}, target="base"),
        probe=LogLine("^hello you$"),
    )

    @classmethod
    def setUpClass(cls) -> None:
        """Write two folders: a copy has more files, which are left out."""
        cls.addClassCleanup(shutil.rmtree, cls.root)
        box = cls.root / "box"
        box.mkdir(parents=True)
        for name in ("Dockerfile", "Other"):
            (box / name).write_text(DOCKERFILE)
        (box / "greeting").write_text("hello")
        (box / ".dockerignore").write_text("# remark\n*.log\n")
        shutil.copytree(box, cls.root / "copy")
        (cls.root / "copy" / "noise.log").write_text("noise")
        super().setUpClass()

    def test_the_same_content_is_one_image(self) -> None:
        """Whatever folder it is in, without what is ignored; with other arguments another."""
        image = str(self.box.info()["image"])
        self.assertRegex(image, "^orchestrator/built:")
        self.assertEqual(image, self.copy.info()["image"])
        self.assertNotEqual(image, str(self.other.info()["image"]))


class FailingBuildTest(LeakCheckedTestCase):
    """What cannot be built, and is told so."""

    def test_what_cannot_be_built_is_told(self) -> None:
        """Its last lines; a base that is not locked; a Dockerfile that is not there."""
        for dockerfile, *told in (
            ("FROM redis\nRUN echo so far so good; exit 7\n", "7", "so far so good"),
            ("FROM nginx:1.27\n", "ImageNotLockedError", "nginx:1.27"),
            ("", "DeclarationError", "/Other"),
        ):
            with self.subTest(told), tempfile.TemporaryDirectory() as folder:
                if dockerfile:
                    (Path(folder) / "Other").write_text(dockerfile)
                box = Container(build=Build(folder=folder, dockerfile="Other"))
                self.assert_cannot_start(*told, box=box)
