"""`python -m orchestrator pull` against a real registry."""

from orchestrator.images import LockedImage
from tests.support.image_case import ImageTestCase
from tests.support.tiny_images import tiny_image


class PullTest(ImageTestCase):
    """The pull command."""

    def test_only_what_is_missing(self) -> None:
        """What is missing is pulled, the rest is left alone, and the totals say so."""
        first, second = self.push(name="first"), self.push(name="second")
        self.write_lock(first)
        self.assertEqual(0, self.command("pull").status)
        self.write_lock(first, second)
        ran = self.command("pull")
        self.assertEqual(0, ran.status, ran)
        self.assertIn(f"{first.reference.familiar}: present", ran.err)
        self.assertRegex(ran.err, f"{second.reference.familiar}: pulled and verified, .* MB in")
        self.assertRegex(ran.out, r"2 images: 1 pulled \(.* MB\), 1 present, 0 failed, in .* s")
        ran = self.command("pull")
        self.assertEqual((0, "2 images, all present\n"), (ran.status, ran.out), ran)

    def test_gives_tag(self) -> None:
        """An image here without its tag gets it, so that `docker image prune` keeps it."""
        image = self.push()
        list(self.engine.images.pull(image.reference.pinned))
        self.write_lock(image)
        self.assertEqual(0, self.command("pull").status)
        self.assertIsNotNone(self.engine.images.find(image.reference.tagged))

    def test_moves_tag(self) -> None:
        """Pull brings the locked bytes under a tag that had others, and keeps those."""
        other = self.push()
        image = self.push(repository=other.reference.repository, tag="2")
        list(self.engine.images.pull(other.reference.pinned))
        self.engine.images.tag(other.reference.pinned, as_reference=image.reference.tagged)
        self.write_lock(image)
        ran = self.command("pull")
        self.assertEqual(0, ran.status, ran)
        self.assertIn("the tag moves here from sha256:", ran.err)
        self.assert_here(image, next(iter(image.platforms.values())).config)
        self.assertIsNotNone(self.engine.images.find(other.reference.pinned))

    def assert_here(self, image: LockedImage, config: str) -> None:
        """An image's tag is this one."""
        found = self.engine.images.find(image.reference.tagged)
        self.assertEqual(config, found and found.id)

    def test_registry_not_allowed(self) -> None:
        """An entry from elsewhere than ORCHESTRATOR_REGISTRIES is refused, missing or present."""
        image = self.push()
        self.write_lock(image)
        foreign = {"ORCHESTRATOR_REGISTRIES": "registry.example.com/safe"}
        ran = self.command("pull", env=foreign)
        self.assertEqual(2, ran.status, ran)
        self.assertIn(f"{image.reference.name} is not from an allowed registry", ran.err)
        ran = self.command("pull", env={"ORCHESTRATOR_REGISTRIES": self.registry.host})
        self.assertEqual(0, ran.status, ran)
        self.assertEqual(2, self.command("pull", env=foreign).status)

    def test_names(self) -> None:
        """Names select entries; an unknown one is named."""
        first, second = self.push(name="first"), self.push(name="second")
        self.write_lock(first, second)
        self.assertEqual(0, self.command("pull", "second").status)
        self.assertIsNone(self.engine.images.find(first.reference.tagged))
        self.assertIsNotNone(self.engine.images.find(second.reference.tagged))
        ran = self.command("pull", "third")
        self.assertEqual(2, ran.status)
        self.assertIn("no entry 'third'; it has first, second", ran.err)

    def test_platform(self) -> None:
        """--platform brings the image of another platform of the same index, and back."""
        here, there = tiny_image(), tiny_image(platform="linux/arm64/v8")
        image = self.push(here, there)
        self.write_lock(image)
        for arguments, expected in (((), here), (("--platform", "linux/arm64/v8"), there)):
            for _ in range(2):
                ran = self.command("pull", *arguments)
                self.assertEqual(0, ran.status, ran)
                self.assert_here(image, expected.config)
        self.assertEqual(0, self.command("pull").status)
        self.assert_here(image, here.config)
