"""What a service does about its image before it starts, and what a class meets when that fails."""

import contextlib
import io
import subprocess
import sys
import uuid
from unittest import mock

from orchestrator import Container
from orchestrator.errors import EngineError
from orchestrator.images import LockedImage, ensure_image, failures
from orchestrator.images.reference import parse_reference
from orchestrator.settings import Settings
from tests.support.classes import LeakCheckedTestCase
from tests.support.image_case import ImageTestCase
from tests.support.tiny_images import tiny_image


class StartTest(ImageTestCase, LeakCheckedTestCase):
    """A class with one service, run by unittest."""

    def test_other_bytes(self) -> None:
        """A tag with other bytes than the locked ones is never used."""
        other = self.push()
        image = self.push(repository=other.reference.repository, tag="2")
        list(self.engine.images.pull(other.reference.pinned))
        self.engine.images.tag(other.reference.pinned, as_reference=image.reference.tagged)
        self.write_lock(image)
        told = str(image.digest), str(other.digest), "orchestrator pull", "lock --update app"
        self.assert_cannot_start("DigestMismatchError", *told, app=Container(image="app"))
        tagged = self.engine.images.find(image.reference.tagged)
        self.assertEqual(next(iter(other.platforms.values())).config, tagged and tagged.id)

    def test_a_pull_that_fails_is_its_message(self) -> None:
        """The report has what the registry said and what to do, and none of our frames."""
        gone = self.push()
        self.registry.pusher.delete(gone.reference.repository, str(gone.digest))
        self.write_lock(gone)
        with contextlib.redirect_stderr(io.StringIO()):
            text = self.assert_cannot_start("manifest unknown", app=Container(image="app"))
        self.assertRegex(text, r"\Aorchestrator.errors.EngineError: .*lock --update.*\n?\Z")


WORKER = """
import sys
from orchestrator.engine import connect
from orchestrator.errors import EngineError
from orchestrator.images import LockedImage, ensure_image
from orchestrator.images import failures
from orchestrator.images.reference import parse_reference
from orchestrator.settings import Settings

failures.FIRST_PAUSE = 0.01
settings = Settings(run=sys.argv[2])
image = LockedImage(name=sys.argv[1], reference=parse_reference(sys.argv[1]))
try:
    ensure_image(connect(settings), image, settings=settings)
except EngineError as error:
    print(error)
"""


class EnsureImageTest(ImageTestCase):
    """`ensure_image`; what failed for a run fails at once for its next class."""

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
        with self.assertRaisesRegex(EngineError, "orchestrator pull"):
            self.ensure(image, settings=Settings(pull="never"))
        self.assertEqual(built.config, self.ensure(image))
        self.assertIn(f"{image.reference.familiar}: pulled and verified", self.shown)
        self.assertEqual(built.config, self.ensure(image, settings=Settings(pull="never")))
        self.assertEqual("", self.shown)

    def test_unlocked(self) -> None:
        """Without digest the tag counts: used when it is here, pulled when not."""
        built = tiny_image()
        image = self.push(built)
        bare = LockedImage(name="x", reference=image.reference.with_digest(None))
        self.assertEqual(built.config, self.ensure(bare))
        self.assertEqual(built.config, self.ensure(bare, settings=Settings(pull="never")))

    def setUp(self) -> None:
        """Have a run, and no pauses."""
        super().setUp()
        self.enterContext(mock.patch.object(failures, "FIRST_PAUSE", 0.01))
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
