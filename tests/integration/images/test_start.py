"""What a service does about its image before it starts, and what a class meets when that fails."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import unittest
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING
from unittest import mock

from orchestrator import Container, ServicesMixin
from orchestrator.environment import keeper
from orchestrator.errors import DigestMismatchError, EngineError, OrchestratorError
from orchestrator.images import LockedImage, ensure_image
from orchestrator.images.failures import Retry
from orchestrator.images.reference import parse_reference
from orchestrator.probes import LogLine
from orchestrator.settings import Settings
from tests.support.classes import problems, run_class
from tests.support.image_case import ImageTestCase
from tests.support.tiny_images import tiny_image

if TYPE_CHECKING:
    from collections.abc import Mapping


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


class EnsureImageTest(ImageTestCase):
    """`ensure_image`."""

    def ensure(self, image: LockedImage, *, settings: Settings | None = None) -> str:
        """Ensure an image and return the id of what was found; keep what was shown."""
        with contextlib.redirect_stderr(io.StringIO()) as stream:
            found = ensure_image(self.engine, image, settings=settings or Settings())
        self.shown = stream.getvalue()
        return found.id

    def test_present_is_silent(self) -> None:
        """A missing image is pulled with a word, whatever its tag is now; then found silently."""
        built = tiny_image()
        image = self.push(built)
        self.push(repository=image.reference.repository)
        self.assertEqual(built.config, self.ensure(image))
        self.assertIn(f"{image.reference.familiar}: pulled and verified", self.shown)
        self.assertEqual(built.config, self.ensure(image, settings=Settings(pull="never")))
        self.assertEqual("", self.shown)

    def test_present_without_tag(self) -> None:
        """An image that was pulled by digest alone is found."""
        image = self.push()
        list(self.engine.images.pull(image.reference.pinned))
        bare = replace(image, platforms={})
        self.assertEqual(
            next(iter(image.platforms.values())).config,
            self.ensure(bare, settings=Settings(pull="never")),
        )

    def test_right_bytes_beside_other_tag(self) -> None:
        """When the locked bytes are here too, they are used, whatever the tag is."""
        other = self.push()
        image = self.push(repository=other.reference.repository, tag="2")
        for each in (other, image):
            list(self.engine.images.pull(each.reference.pinned))
        self.engine.images.tag(other.reference.pinned, as_reference=image.reference.tagged)
        self.assertEqual(next(iter(image.platforms.values())).config, self.ensure(image))

    def test_known_by_config(self) -> None:
        """An image whose registry digest the daemon lost is known by its locked config digest."""
        image = self.push()
        self.ensure(image)
        config = next(iter(image.platforms.values())).config
        archive = b"".join(self.engine.images.save([image.reference.tagged]))
        for name in (image.reference.tagged, image.reference.pinned):
            self.engine.images.remove(name)
        list(self.engine.images.load([archive]))
        found = self.engine.images.find(image.reference.tagged)
        self.assertEqual((), found and found.repo_digests)
        self.assertEqual(config, self.ensure(image, settings=Settings(pull="never")))

    def test_unlocked(self) -> None:
        """Without digest the tag counts: used when it is here, pulled when not."""
        built = tiny_image()
        image = self.push(built)
        bare = LockedImage(name="x", reference=image.reference.with_digest(None))
        self.assertEqual(built.config, self.ensure(bare))
        self.assertEqual(built.config, self.ensure(bare, settings=Settings(pull="never")))

    def test_foreign_platform(self) -> None:
        """After `pull --platform` for another machine, a service gets its own platform again."""
        here, there = tiny_image(), tiny_image(platform="linux/arm64/v8")
        image = self.push(here, there)
        list(self.engine.images.pull(image.reference.pinned, platform="linux/arm64"))
        self.engine.images.tag(image.reference.pinned, as_reference=image.reference.tagged)
        self.assertEqual(here.config, self.ensure(image))


WORKER = """
import sys
from orchestrator.engine import connect
from orchestrator.errors import EngineError
from orchestrator.images import LockedImage, ensure_image
from orchestrator.images.failures import Retry
from orchestrator.images.reference import parse_reference
from orchestrator.settings import Settings

Retry.pause = lambda *_: 0.01
settings = Settings(run=sys.argv[2])
image = LockedImage(name=sys.argv[1], reference=parse_reference(sys.argv[1]))
try:
    ensure_image(connect(settings), image, settings=settings)
except EngineError as error:
    print(error)
"""


class KnownFailuresTest(ImageTestCase):
    """What failed for a run fails at once for its next class."""

    def setUp(self) -> None:
        """Have a run, and no pauses."""
        super().setUp()
        self.enterContext(mock.patch.object(Retry, "pause", return_value=0.01))
        self.settings = Settings(run=uuid.uuid4().hex)

    def failing(self, image: str) -> tuple[str, int]:
        """Why an image cannot be had, and how often that was tried again."""
        with (
            contextlib.redirect_stderr(io.StringIO()) as shown,
            self.assertRaises(EngineError) as caught,
        ):
            locked = LockedImage(name=image, reference=parse_reference(image))
            ensure_image(self.engine, locked, settings=self.settings)
        return str(caught.exception), shown.getvalue().count("trying again")

    def test_registry_that_cannot_be_reached(self) -> None:
        """It is tried for one image; the others know, in other processes too."""
        text, tried = self.failing("127.0.0.1:9/team/app:1")
        self.assertIn("connection refused", text)
        self.assertEqual(4, tried)
        text, tried = self.failing("127.0.0.1:9/team/other:1")
        self.assertRegex(
            text, "^127.0.0.1:9/team/other:1 is not tried again in this run: .*refused"
        )
        self.assertEqual(0, tried)
        printed = self.worker("127.0.0.1:9/team/third:1")
        self.assertIn("third:1 is not tried again in this run", printed)
        self.assertNotIn("trying again in", printed)

    def test_what_warm_servers_keep_is_left_alone(self) -> None:
        """Whoever clears away what ended runs knew leaves the keepers' files where they are."""
        with tempfile.TemporaryDirectory() as place, mock.patch.dict(os.environ, TMPDIR=place):
            turn = keeper.folder() / "turn"
            turn.touch()
            self.worker("127.0.0.1:9/team/app:1")
            self.assertTrue(turn.exists())

    def test_nothing_outlives_the_run(self) -> None:
        """When all its processes have ended, a run of the same name tries again."""
        for _ in range(2):
            printed = self.worker("127.0.0.1:9/team/app:1")
            self.assertNotIn("not tried again", printed)
            self.assertEqual(4, printed.count("trying again in"))

    def worker(self, image: str) -> str:
        """What another process of the run prints."""
        argv = [sys.executable, "-c", WORKER, image, self.settings.run or ""]
        done = subprocess.run(
            argv, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, check=True, text=True
        )
        return str(done.stdout)

    def test_image_that_is_not_there(self) -> None:
        """That is known of this image only."""
        image = self.push()
        gone = f"{image.reference.name}:gone"
        self.assertNotIn("not tried again", self.failing(gone)[0])
        self.assertIn("not tried again in this run", self.failing(gone)[0])
        found = ensure_image(self.engine, image, settings=self.settings)
        self.assertEqual(next(iter(image.platforms.values())).config, found.id)
