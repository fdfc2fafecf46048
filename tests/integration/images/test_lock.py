"""`python -m orchestrator lock` against a real registry."""

from unittest import mock

from orchestrator.images import LockedImage, failures, read_lock
from tests.support.image_case import ImageTestCase
from tests.support.processes import run_command
from tests.support.tiny_images import tiny_image


class LockTest(ImageTestCase):
    """Adding and updating entries; `--check` for a weekly job, `--hash` for a cache."""

    def setUp(self) -> None:
        """Shorten the pauses."""
        super().setUp()
        self.path = self.folder / "images.lock"
        self.enterContext(mock.patch.object(failures, "FIRST_PAUSE", 0.01))

    def locked(self, name: str = "app") -> LockedImage:
        """The entry in the file."""
        return read_lock(self.path).entries[name]

    def test_first(self) -> None:
        """The first lock makes the file, with every platform's manifest and config."""
        image = self.push(tiny_image(), tiny_image(platform="linux/arm64/v8"))
        ran = run_command("lock", image.reference.tagged)
        self.assertEqual(0, ran.status, ran)
        self.assertIn("2 platforms", ran.out)
        self.assertEqual(image, self.locked())

    def test_completes(self) -> None:
        """Without arguments, missing platforms are added, although the tag has moved."""
        image = self.push()
        self.write_lock(image, platforms=False)
        self.push(repository=image.reference.repository)
        ran = run_command("lock")
        self.assertEqual(0, ran.status, ran)
        self.assertEqual(image, self.locked())
        self.assertIn("unchanged, 1 platform", ran.out)
        self.assertIn("nothing to change", run_command("lock").out)

    def test_update_one(self) -> None:
        """--update NAME locks what its tag stands for now, and leaves the others alone."""
        first, second = self.push(name="first"), self.push(name="second")
        self.write_lock(first, second)
        self.push(repository=first.reference.repository)
        newer = self.push(repository=second.reference.repository, name="second")
        ran = run_command("lock", "--update", "second")
        self.assertEqual(0, ran.status, ran)
        self.assertIn(f"{str(second.digest)[7:19]} -> {str(newer.digest)[7:19]}", ran.out)
        self.assertEqual(first, self.locked("first"))
        self.assertEqual(newer, self.locked("second"))

    def test_comments_are_kept(self) -> None:
        """Comments, order, spelling and everything else in the file stay as they were."""
        old = self.push()
        self.write_lock(old)
        text = self.path.read_text(encoding="utf-8")
        text = f"# ours\n{text}  # the end\n".replace("[images.app]", "# why\n[images.app] # app")
        self.path.write_text(text, encoding="utf-8")
        self.path.chmod(0o640)
        new = self.push(repository=old.reference.repository)
        run_command("lock", "--update")
        expected = text
        for before, after in (
            (str(old.digest), str(new.digest)),
            (old.platforms["linux/amd64"].config, new.platforms["linux/amd64"].config),
        ):
            expected = expected.replace(before, after)
        self.assertEqual(expected, self.path.read_text(encoding="utf-8"))
        self.assertEqual(0o640, self.path.stat().st_mode & 0o777)

    def test_failure_writes_nothing(self) -> None:
        """When one image fails, nothing is written, and the status says which kind it was."""
        good, gone = self.push(name="good"), self.push(name="gone")
        self.write_lock(gone)
        before = self.path.read_bytes()
        ran = run_command("lock", good.reference.tagged, f"{gone.reference.name}:none")
        self.assertEqual(5, ran.status, ran)
        self.assertIn("nothing was written", ran.err)
        self.assertIn("MANIFEST_UNKNOWN", ran.err)
        self.assertEqual(before, self.path.read_bytes())
        self.assertEqual([self.path], list(self.folder.iterdir()))

    def test_cache_key(self) -> None:
        """The key changes with an image, not with order, comments or platforms."""
        first, second = self.push(name="first"), self.push(name="second")
        self.write_lock(first, second)
        key = run_command("lock", "--hash").out
        path = self.write_lock(second, first, platforms=False)
        path.write_text(f"# hello\n{path.read_text()}", encoding="utf-8")
        self.assertEqual(key, run_command("lock", "--hash").out)
        self.write_lock(first)
        self.assertNotEqual(key, run_command("lock", "--hash").out)
        self.assertEqual(64, len(key.strip()))

    def test_moved(self) -> None:
        """Status 1 when a tag has moved, and the command that locks what is there now."""
        image, other = self.push(), self.push(name="other")
        self.write_lock(image, other)
        self.push(repository=image.reference.repository)
        ran = run_command("lock", "--check")
        self.assertEqual(1, ran.status, ran)
        self.assertEqual(1, ran.out.count("MOVED"))
        self.assertRegex(ran.out, rf"other +{other.reference.tagged} +\w{{12}} +\w{{12}} +same")
        self.assertIn("lock --update", ran.out)
        self.assertEqual(0, run_command("lock", "--check", "other").status)
