"""`save` and `load` against a real daemon."""

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

from orchestrator.images import LockedImage, ensure_image, read_lock
from orchestrator.settings import Settings
from tests.support.image_case import ImageTestCase, Ran
from tests.support.tiny_images import tiny_image

NEVER = Settings(pull="never")


class ArchiveTestCase(ImageTestCase):
    """Two images that share nothing, pulled and locked."""

    def setUp(self) -> None:
        """Pull two images."""
        super().setUp()
        self.images = [
            self.push(tiny_image(content=b"x" * 100_000, layers=2), name=name)
            for name in ("first", "second")
        ]
        self.lock = self.write_lock(*self.images)
        self.assertEqual(0, self.command("pull").status)

    def forget_images(self) -> None:
        """Remove the images from the daemon."""
        for image in self.images:
            for name in (image.reference.tagged, image.reference.pinned):
                self.engine.images.remove(name)
        self.assert_nothing_loaded()

    def save(self, name: str = "images.tar", *names: str) -> Path:
        """Save and forget."""
        ran = self.command("save", name, *names)
        self.assertEqual(0, ran.status, ran)
        self.forget_images()
        return self.folder / name

    def assert_nothing_loaded(self) -> None:
        """No image of these tests is on the daemon."""
        for image in self.images:
            for name in (image.reference.tagged, self.config(image)):
                self.assertIsNone(self.engine.images.find(name), name)

    def assert_usable(self) -> None:
        """A service would find every image, without a registry."""
        for image in self.images:
            info = ensure_image(self.engine, image, settings=NEVER)
            self.assertEqual(self.config(image), info.id)

    def assert_refused(self, status: int, pattern: str, ran: Ran) -> None:
        """Load ended in this way and nothing was loaded."""
        self.assertEqual(status, ran.status, ran)
        self.assertRegex(ran.err, pattern)
        self.assertNotIn("Traceback", ran.err)
        self.assert_nothing_loaded()

    @staticmethod
    def config(image: LockedImage) -> str:
        """The image id."""
        return image.platforms["linux/amd64"].config


class RoundTripTest(ArchiveTestCase):
    """Saved and loaded again."""

    def test_round_trip(self) -> None:
        """Plain, gzip and zstandard: what was saved is loaded, verified and usable."""
        for name in ("a.tar", "a.tar.gz", "a.tgz", "a.tar.zst"):
            with self.subTest(name):
                self.save(name)
                ran = self.command("load", name)
                self.assertEqual(0, ran.status, ran)
                for image in self.images:
                    self.assertIn(f"{image.reference.familiar}: loaded and verified", ran.out)
                self.assert_usable()

    def test_docker_reads_it(self) -> None:
        """`docker load` reads the archive too."""
        archive = self.save()
        list(self.engine.images.load([archive.read_bytes()]))
        self.assert_usable()

    def test_docker_save_is_read(self) -> None:
        """What `docker save` wrote is loaded when the lock knows its config digests."""
        names = [image.reference.tagged for image in self.images]
        Path("raw.tar").write_bytes(b"".join(self.engine.images.save(names)))
        self.forget_images()
        self.assertEqual(0, self.command("load", "raw.tar").status)
        self.assert_usable()

    def test_lock_without_platforms(self) -> None:
        """An image known by the registry's digest alone is proven, and noted in the lock file."""
        lock = self.write_lock(*self.images, platforms=False)
        self.save()
        ran = self.command("load", "images.tar")
        self.assertEqual(0, ran.status, ran)
        self.assertIn(f"wrote {lock}", ran.out)
        for image in self.images:
            self.assertEqual(image, read_lock(lock).entries[image.name])
        self.assert_usable()

    def test_no_proof(self) -> None:
        """Where no registry gives a proof, save says so, and load refuses with what mends it."""
        self.write_lock(*self.images, platforms=False)
        nowhere = "http://127.0.0.1:9"
        env = {"HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere, "NO_PROXY": ""}
        env |= {name.lower(): value for name, value in env.items()}
        ran = self.command("save", "images.tar", env=env)
        self.assertEqual(0, ran.status, ran)
        self.assertRegex(ran.err, "(first|second):1: .*`load` will refuse it")
        self.forget_images()
        ran = self.command("load", "images.tar")
        self.assert_refused(6, "(first|second): .*Note the digests .* orchestrator lock", ran)
        self.assertEqual(0, self.command("lock").status)
        self.assertEqual(0, self.command("load", "images.tar").status)
        self.assert_usable()

    def test_without_lock_file(self) -> None:
        """Where there is no images.lock, the archive's entries become one."""
        self.save()
        self.lock.unlink()
        ran = self.command("load", "images.tar")
        self.assertEqual(0, ran.status, ran)
        self.assertIn(f"wrote {self.lock}", ran.out)
        self.assert_usable()
        self.assertEqual(0, self.command("pull").status)

    def test_some(self) -> None:
        """Named entries are saved alone; load says what the lock has beside them: status 5."""
        self.save("some.tar", "second")
        ran = self.command("load", "some.tar")
        self.assertEqual(5, ran.status, ran)
        self.assertIn("not in the archive: first", ran.err)
        self.assertIsNotNone(self.engine.images.find(self.images[1].reference.tagged))

    def test_tag_elsewhere(self) -> None:
        """An image whose tag went to another one is saved all the same, and gets it at load."""
        first, second = self.images
        self.engine.images.tag(self.config(second), as_reference=first.reference.tagged)
        self.save()
        self.assertEqual(0, self.command("load", "images.tar").status)
        self.assert_usable()

    def test_missing(self) -> None:
        """An image that is not here cannot be saved; no file appears."""
        self.forget_images()
        ran = self.command("save", "images.tar")
        self.assertNotEqual(0, ran.status)
        self.assertIn("orchestrator pull", ran.err)
        self.assertEqual([self.lock], list(self.folder.iterdir()))

    def test_existing(self) -> None:
        """An earlier file is replaced by a whole one only; what a link leads to is written."""
        real, link = self.folder / "real.tar", self.folder / "link.tar"
        real.write_text("before")
        link.symlink_to(real)
        self.assertEqual(2, self.command("save", "link.tar", "nobody").status)
        self.assertEqual("before", real.read_text())
        self.save("link.tar")
        self.assertTrue(link.is_symlink())
        self.assertTrue(tarfile.is_tarfile(real))

    def test_no_stream(self) -> None:
        """A name for a stream is refused: an archive counts only when all of it was verified."""
        for command in ("save", "load"):
            with self.subTest(command), self.assertRaises(SystemExit) as ended:
                self.command(command, "-")
            self.assertEqual(2, ended.exception.code)

    def test_no_regular_file(self) -> None:
        """A device or pipe is never replaced by an archive."""
        os.mkfifo("pipe")
        ran = self.command("save", "pipe")
        self.assertEqual(1, ran.status, ran)
        self.assertIn("pipe cannot be written: it is not a file", ran.err)
        self.assertTrue(Path("pipe").is_fifo())
        ran = self.command("load", "pipe")
        self.assertEqual(1, ran.status, ran)
        self.assertIn("pipe cannot be read: it is not a file", ran.err)

    def test_unknown_ending(self) -> None:
        """A name that promises another kind of file is refused, and nothing is written."""
        ran = self.command("save", "images.zip")
        self.assertEqual(1, ran.status, ran)
        self.assertIn("images.zip: an archive is a .tar, .tar.gz or .tar.zst", ran.err)
        self.assertEqual([self.lock], list(self.folder.iterdir()))


class DamageTest(ArchiveTestCase):
    """Archives that are not what they should be."""

    def setUp(self) -> None:
        """Save."""
        super().setUp()
        self.archive = self.save()
        self.whole = self.archive.read_bytes()

    def rewritten(self, change: Callable[[tarfile.TarInfo, bytes], bytes]) -> None:
        """Write the archive anew with some members changed."""
        out = io.BytesIO()
        with (
            tarfile.open(fileobj=io.BytesIO(self.whole)) as old,
            tarfile.open(fileobj=out, mode="w") as new,
        ):
            for member in old:
                file = old.extractfile(member) if member.isreg() else None
                content = change(member, file.read()) if file else b""
                member.size = len(content)
                new.addfile(member, io.BytesIO(content))
        self.archive.write_bytes(out.getvalue())

    def test_cut_off(self) -> None:
        """An archive cut off anywhere is refused, and the whole one loads afterwards."""
        size = len(self.whole)
        for length in (0, 1, 511, 512, 2000, size // 3, size // 2, size - 2048, size - 1024):
            with self.subTest(length):
                self.archive.write_bytes(self.whole[:length])
                self.assert_refused(1, "empty|cut off|no whole", self.command("load", "images.tar"))
        self.archive.write_bytes(self.whole)
        self.assertEqual(0, self.command("load", "images.tar").status)
        self.assert_usable()

    def test_image_left_out(self) -> None:
        """An archive that says it has an image it has not is refused, with the image's name."""

        def change(member: tarfile.TarInfo, content: bytes) -> bytes:
            if member.name != "manifest.json":
                return content
            items = json.loads(content)
            tag = self.images[0].reference.familiar
            return json.dumps([item for item in items if tag not in item["RepoTags"]]).encode()

        self.rewritten(change)
        self.assert_refused(6, "says it has first", self.command("load", "images.tar"))

    def test_for_another_lock(self) -> None:
        """An archive saved for another images.lock is refused; both digests are named."""
        newer = self.push(repository=self.images[1].reference.repository, name="second")
        self.write_lock(self.images[0], newer)
        ran = self.command("load", "images.tar")
        for text in ("second: ", str(newer.digest), str(self.images[1].digest)):
            self.assertIn(text, ran.err)
        self.assert_refused(6, "saved for another images.lock", ran)

    def test_more_than_locked(self) -> None:
        """An image no lock knows is not let in by a plain `docker save` archive."""
        names = [image.reference.tagged for image in self.images]
        self.assertEqual(0, self.command("load", "images.tar").status)
        self.archive.write_bytes(b"".join(self.engine.images.save(names)))
        self.forget_images()
        self.write_lock(self.images[0])
        ran = self.command("load", "images.tar")
        self.assert_refused(6, "which images.lock does not lock", ran)

    def test_registry_not_allowed(self) -> None:
        """Images from elsewhere than ORCHESTRATOR_REGISTRIES are named and not loaded."""
        foreign = {"ORCHESTRATOR_REGISTRIES": self.images[0].reference.name}
        pattern = f"{self.images[1].reference.name} is not from an allowed registry"
        self.assert_refused(1, pattern, self.command("load", "images.tar", env=foreign))
        self.lock.unlink()
        self.assert_refused(1, pattern, self.command("load", "images.tar", env=foreign))

    def test_no_archive(self) -> None:
        """What is no archive of images is said to be none."""
        other = io.BytesIO()
        with tarfile.open(fileobj=other, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("hello"))
        packed = gzip.compress(self.whole)
        wrong = packed[:-8] + b"abcd" + packed[-4:]
        empty = b"\0" * 10_000
        for content in (b"hello", empty, other.getvalue(), b"\x1f\x8b hello", wrong, packed + b"x"):
            with self.subTest(content[:10]):
                self.archive.write_bytes(content)
                self.assert_refused(1, "damaged|no whole", self.command("load", "images.tar"))
