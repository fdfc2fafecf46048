"""What a test class with a service meets when its image is not as it should be."""

import contextlib
import io
import os
import unittest
from collections.abc import Mapping
from unittest import mock

from orchestrator import Container, ServicesMixin
from orchestrator.errors import DigestMismatchError, OrchestratorError
from orchestrator.images import LockedImage
from orchestrator.probes import LogLine
from tests.support.classes import problems, run_class
from tests.support.image_case import ImageTestCase


class StartTest(ImageTestCase):
    """A class with one service, run by unittest."""

    def start(
        self, image: str, *, env: Mapping[str, str] | None = None
    ) -> tuple[OrchestratorError, str]:
        """Run a class whose service has this image; return its error and what was printed."""

        class OneService(ServicesMixin, unittest.TestCase):
            app = Container(image=image, probe=LogLine("never"))

            def test_nothing(self) -> None: ...

        err = io.StringIO()
        with (
            mock.patch.dict(os.environ, env or {}),
            contextlib.redirect_stderr(err),
            contextlib.ExitStack() as stack,
            self.assertRaises(OrchestratorError) as caught,
        ):
            stack.callback(OneService.doClassCleanups)
            OneService.setUpClass()
        return caught.exception, err.getvalue()

    def present(self, image: LockedImage) -> bool:
        """Whether its tag is on this machine."""
        return self.engine.images.find(image.reference.tagged) is not None

    def test_pulled(self) -> None:
        """A missing image is pulled, and the start says so in one line."""
        image = self.push()
        self.write_lock(image)
        _, printed = self.start(image.reference.tagged)  # it has no program, so it cannot run
        self.assertIn(f"{image.reference.familiar}: pulling", printed)
        self.assertIn(f"{image.reference.familiar}: pulled and verified", printed)
        self.assertTrue(self.present(image))

    def test_other_bytes(self) -> None:
        """A tag with other bytes than the locked ones is never used."""
        other = self.push()
        image = self.push(repository=other.reference.repository, tag="2")
        list(self.engine.images.pull(other.reference.pinned))
        self.engine.images.tag(other.reference.pinned, as_reference=image.reference.tagged)
        self.write_lock(image)
        error, _ = self.start(image.reference.tagged)
        self.assertIsInstance(error, DigestMismatchError)
        for text in (image.digest, other.digest, "orchestrator pull", "lock --update app"):
            self.assertIn(str(text), str(error))
        tagged = self.engine.images.find(image.reference.tagged)
        self.assertEqual(next(iter(other.platforms.values())).config, tagged and tagged.id)

    def test_a_pull_that_fails_is_its_message(self) -> None:
        """The report has what the registry said and what to do, and none of our frames."""
        gone = self.push()
        self.registry.pusher.delete(gone.reference.repository, str(gone.digest))
        self.write_lock(gone)

        class Gone(ServicesMixin, unittest.TestCase):
            app = Container(image="app")

            def test_nothing(self) -> None: ...

        with contextlib.redirect_stderr(io.StringIO()):
            text = problems(run_class(Gone))
        self.assertRegex(
            text, "^orchestrator.errors.EngineError: .*manifest unknown.*lock --update"
        )
        self.assertEqual(1, text.strip().count("\n") + 1, text)
