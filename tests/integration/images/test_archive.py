"""Save and load against a real daemon, also of what puts other bytes under a locked name."""

import gzip
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from orchestrator.images import LockedImage, ensure_image
from orchestrator.settings import Settings
from tests.support.image_case import ImageTestCase
from tests.support.processes import Ran, run_command
from tests.support.tiny_images import tar_of, tiny_image

NEVER = Settings(pull="never")


class ArchiveTest(ImageTestCase):
    """Two images that share nothing, pulled and locked; saved, loaded or refused."""

    def setUp(self) -> None:
        """Pull two images."""
        super().setUp()
        self.images = [
            self.push(tiny_image(content=b"x" * 100_000, layers=2), name=name)
            for name in ("first", "second")
        ]
        self.lock = self.write_lock(*self.images)
        self.assertEqual(0, run_command("pull").status)

    def forget_images(self) -> None:
        """Remove the images from the daemon."""
        for image in self.images:
            for name in (image.reference.tagged, image.reference.pinned):
                self.engine.images.remove(name)
        self.assert_nothing_loaded()

    def save(self, name: str = "images.tar", *names: str) -> Path:
        """Save and forget."""
        ran = run_command("save", name, *names)
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

    def test_round_trip(self) -> None:
        """Plain, gzip and zstandard: what was saved is loaded, verified and usable."""
        for name in ("a.tar", "a.tar.gz", "a.tar.zst"):
            with self.subTest(name):
                self.save(name)
                ran = run_command("load", name)
                self.assertEqual(0, ran.status, ran)
                for image in self.images:
                    self.assertIn(f"{image.reference.familiar}: loaded and verified", ran.out)
                self.assert_usable()

    def test_docker(self) -> None:
        """`docker load` reads the archive too, and what `docker save` wrote is loaded."""
        archive = self.save()
        list(self.engine.images.load([archive.read_bytes()]))
        self.assert_usable()
        names = [image.reference.tagged for image in self.images]
        Path("raw.tar").write_bytes(b"".join(self.engine.images.save(names)))
        self.forget_images()
        self.assertEqual(0, run_command("load", "raw.tar").status)
        self.assert_usable()

    def test_lock_without_platforms(self) -> None:
        """An entry that has the registry's digest alone is refused with what mends it."""
        archive = self.save()
        pattern = "(first|second)[: ].*the digests .* orchestrator lock"
        self.write_lock(*self.images, platforms=False)
        self.assert_refused(6, pattern, run_command("load", archive.name))
        self.assertEqual(0, run_command("pull").status)
        ran = run_command("save", "again.tar")
        self.assertEqual(1, ran.status, ran)
        self.assertRegex(ran.err, pattern)
        self.assertEqual(0, run_command("lock").status)
        self.save("again.tar")
        self.assertEqual(0, run_command("load", "again.tar").status)

    def test_some(self) -> None:
        """Named entries are saved alone, by their bytes; load says what else the lock has."""
        first, second = self.images
        self.engine.images.tag(self.config(first), as_reference=second.reference.tagged)
        self.save("some.tar", "second")
        ran = run_command("load", "some.tar")
        self.assertEqual(5, ran.status, ran)
        self.assertIn("not in the archive: first", ran.err)
        found = self.engine.images.find(second.reference.tagged)
        self.assertEqual(self.config(second), found and found.id)

    def test_nothing_is_written(self) -> None:
        """Names that promise something else, images that are not here; what was there stays."""
        os.mkfifo("pipe")
        Path("a.tar").write_text("before")
        for argv, status, pattern in (
            (("save", "pipe"), 1, "pipe cannot be written: it is not a file"),
            (("load", "pipe"), 1, "pipe cannot be read: it is not a file"),
            (("save", "images.zip"), 1, "images.zip: an archive is a .tar, .tar.gz or .tar.zst"),
            (("save", "a.tar", "nobody"), 2, "no entry 'nobody'"),
            (("load", "-"), 2, ""),
        ):
            with self.subTest(argv):
                ran = run_command(*argv)
                self.assertEqual(status, ran.status, ran)
                self.assertIn(pattern, ran.err)
        self.forget_images()
        self.assertIn("orchestrator pull", run_command("save", "a.tar").err)
        self.assertEqual("before", Path("a.tar").read_text())
        self.assertEqual(
            ["a.tar", "images.lock", "pipe"], sorted(path.name for path in self.folder.iterdir())
        )

    def test_for_another_lock(self) -> None:
        """What is not locked now is refused, with the digest that is, or from elsewhere."""
        first, second = self.images
        self.save()
        newer = self.push(repository=second.reference.repository, name="second")
        for locked, pattern in (
            ((first, newer), f"second:1 .*which images.lock does not lock, but {newer.digest}"),
            ((first,), "second:1 .*which images.lock does not lock. Save it again"),
        ):
            with self.subTest(pattern):
                self.write_lock(*locked)
                self.assert_refused(6, pattern, run_command("load", "images.tar"))
        foreign = {"ORCHESTRATOR_REGISTRIES": first.reference.name}
        pattern = f"{second.reference.name} is not from an allowed registry"
        self.write_lock(*self.images)
        self.assert_refused(1, pattern, run_command("load", "images.tar", env=foreign))


Members = list[tuple[str, bytes]]


class HostileTest(ImageTestCase):
    """A locked image, an archive of it, and another image that an attacker has."""

    def setUp(self) -> None:
        """Save the locked image."""
        super().setUp()
        self.image = self.push(name="app")
        self.tag = self.image.reference.tagged
        self.write_lock(self.image)
        self.assertEqual(0, run_command("pull").status)
        self.assertEqual(0, run_command("save", "good.tar").status)
        with tarfile.open("good.tar") as tar:
            self.good = [(it.name, f.read()) for it in tar if (f := tar.extractfile(it))]
        for name in (self.tag, self.image.reference.pinned):
            self.engine.images.remove(name)
        self.evil = tiny_image()
        self.addCleanup(self.engine.images.remove, self.evil.config)
        [listed] = json.loads(dict(self.good)["manifest.json"])
        self.config = listed["Config"]

    def manifest(self, config: str, layer: str, *tags: str) -> tuple[str, bytes]:
        """A manifest of one image."""
        item = {"Config": config, "Layers": [layer], "RepoTags": list(tags)}
        return "manifest.json", json.dumps([item]).encode()

    def attacks(self) -> Iterator[tuple[str, Members]]:
        """Archives by what they try."""
        config, good = self.config, self.good
        [packed] = [b for d, b in self.evil.blobs.items() if d != self.evil.config]
        layer = ("evil.tar", gzip.decompress(packed))
        evil = [("evil.json", self.evil.blobs[self.evil.config]), layer]
        yield "a second manifest", [*good, *evil, self.manifest("evil.json", "evil.tar", self.tag)]
        rest = [it for it in good if it[0] != "manifest.json"]
        yield "another image", [*rest, *evil, self.manifest("evil.json", "evil.tar", self.tag)]
        yield "another layer", [*rest, *evil, self.manifest(config, "evil.tar", self.tag)]
        more = json.loads(dict(good)["manifest.json"])
        for tags in ([self.tag], ["orchestrator-test/evil:1"], []):
            both = [*more, {"Config": "evil.json", "Layers": ["evil.tar"], "RepoTags": tags}]
            several = ("manifest.json", json.dumps(both).encode())
            yield f"a second image {tags}", [*rest, *evil, several]
        more[0]["RepoTags"].append("orchestrator-test/evil:1")
        yield "a second tag", [*rest, ("manifest.json", json.dumps(more).encode())]

    def test_attacks(self) -> None:
        """None loads other bytes or moves a tag, and each is refused with a reason."""
        bystander = tiny_image()
        self.registry.pusher.push("bystander", "1", bystander)
        other = self.push(bystander, name="other")
        ensure_image(self.engine, other, settings=Settings())
        self.engine.images.tag(bystander.config, as_reference=self.tag)
        for name, members in self.attacks():
            with self.subTest(name):
                Path("x.tar").write_bytes(tar_of(members))
                ran = run_command("load", "x.tar")
                self.assertIn(ran.status, (1, 6), ran)
                self.assertRegex(ran.err, r"orchestrator load: \S*\s?.*x\.tar")
                self.assertIsNone(self.engine.images.find(self.evil.config))
                self.assertIsNone(self.engine.images.find("orchestrator-test/evil:1"))
                here = self.engine.images.find(self.tag)
                self.assertEqual(bystander.config, here and here.id)

    def test_put_back(self) -> None:
        """When the daemon has something else than what its index promised, that is undone."""
        other = self.push(self.evil, name="other")
        ensure_image(self.engine, other, settings=Settings())
        self.write_lock(self.image, platforms=False)
        top = {
            "digest": self.image.digest,
            "annotations": {"io.containerd.image.name": self.tag},
        }
        index = ("index.json", json.dumps({"manifests": [top]}).encode())
        rest = [it for it in self.good if it[0] != "index.json"]
        Path("x.tar").write_bytes(tar_of([*rest, index]))
        for tagged in (False, True):
            if tagged:
                self.engine.images.tag(self.evil.config, as_reference=self.tag)
            ran = run_command("load", "x.tar")
            self.assertEqual(6, ran.status, ran)
            self.assertIn("that was put back", ran.err)
            here = self.engine.images.find(self.tag)
            self.assertEqual(self.evil.config if tagged else None, here and here.id)
            self.assertIsNone(self.engine.images.find(self.image.platforms["linux/amd64"].config))
