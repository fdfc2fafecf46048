"""The pull command, with a registry that also fails, stalls, cuts, lies and answers 429."""

import json
import threading
from unittest import mock

from orchestrator.images import LockedImage, failures
from tests.support.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.support.image_case import ImageTestCase
from tests.support.processes import Ran, run_command
from tests.support.tiny_images import tiny_image


class PullTest(ImageTestCase):
    """The pull command."""

    def test_only_what_is_missing(self) -> None:
        """What is missing is pulled, the rest is left alone, and the totals say so."""
        first, second = self.push(name="first"), self.push(name="second")
        self.write_lock(first)
        self.assertEqual(0, run_command("pull").status)
        self.write_lock(first, second)
        ran = run_command("pull")
        self.assertEqual(0, ran.status, ran)
        self.assertIn(f"{first.reference.familiar}: present", ran.err)
        self.assertRegex(ran.err, f"{second.reference.familiar}: pulled and verified, .* MB in")
        self.assertRegex(ran.out, r"2 images: 1 pulled \(.* MB\), 1 present, 0 failed, in .* s")
        ran = run_command("pull")
        self.assertEqual((0, "2 images, all present\n"), (ran.status, ran.out), ran)

    def test_moves_tag(self) -> None:
        """Pull brings the locked bytes under a tag that had others, and keeps those."""
        other = self.push()
        image = self.push(repository=other.reference.repository, tag="2")
        list(self.engine.images.pull(other.reference.pinned))
        self.engine.images.tag(other.reference.pinned, as_reference=image.reference.tagged)
        self.write_lock(image)
        ran = run_command("pull")
        self.assertEqual(0, ran.status, ran)
        self.assertIn("the tag moves here from sha256:", ran.err)
        self.assert_here(image, next(iter(image.platforms.values())).config)
        self.assertIsNotNone(self.engine.images.find(other.reference.pinned))

    def assert_here(self, image: LockedImage, config: str) -> None:
        """An image's tag is this one."""
        found = self.engine.images.find(image.reference.tagged)
        self.assertEqual(config, found and found.id)

    def test_platform(self) -> None:
        """--platform brings the image of another platform of the same index, and back."""
        here, there = tiny_image(), tiny_image(platform="linux/arm64/v8")
        image = self.push(here, there)
        self.write_lock(image)
        for arguments, expected in (((), here), (("--platform", "linux/arm64/v8"), there)):
            for _ in range(2):
                ran = run_command("pull", *arguments)
                self.assertEqual(0, ran.status, ran)
                self.assert_here(image, expected.config)
        self.assertEqual(0, run_command("pull").status)
        self.assert_here(image, here.config)


def error(code: str, message: str) -> bytes:
    """A registry's refusal."""
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


LIMIT = error("TOOMANYREQUESTS", "You have reached your limit")


class PullFaultsTest(ImageTestCase):
    """The pull command when the registry misbehaves."""

    proxy: FaultProxy

    def setUp(self) -> None:
        """Put a new proxy in front, and shorten the pauses."""
        super().setUp()
        self.proxy = self.enterContext(fault_proxy(self.registry.host))
        self.enterContext(mock.patch.object(failures, "FIRST_PAUSE", 0.01))
        self.lock_another()

    def lock_another(self) -> None:
        """Lock an image that is not here yet."""
        self.built = tiny_image(content=b"x" * 4096)
        self.image = self.push(self.built, host=self.proxy.host)
        self.write_lock(self.image)

    def pull(self, *faults: Fault, seconds: str = "60") -> Ran:
        """Pull with these faults."""
        self.proxy.faults = list(faults)
        return run_command("pull", env={"ORCHESTRATOR_ENGINE_TIMEOUT": seconds})

    def assert_succeeds(self, ran: Ran) -> None:
        """The pull succeeded and what is here is the locked image."""
        self.assertEqual(0, ran.status, ran)
        found = self.engine.images.find(self.image.reference.tagged)
        self.assertEqual(self.built.config, found and found.id)

    def test_passing_faults(self) -> None:
        """What passes is tried again, and each failure is one line."""
        for fault in (
            Fault(path="/manifests/", status=503, times=2),
            Fault(path="/manifests/", status=429, body=LIMIT, times=2),
            Fault(path="/manifests/", cut=True, times=2),
            Fault(path="/manifests/", cut=True, after=50, times=2),
        ):
            with self.subTest(fault):
                self.lock_another()
                ran = self.pull(fault)
                self.assert_succeeds(ran)
                self.assertIn("trying again in 0.0 s (2 of 5)", ran.err)
        self.lock_another()
        self.assert_succeeds(self.pull(Fault(path="/blobs/", cut=True, after=30)))

    def test_lasting_faults(self) -> None:
        """What lasts has its status and advice, leaves nothing, and the next pull succeeds."""
        for status, text, fault in (
            (8, "(5 of 5)", Fault(status=503)),
            (8, "ORCHESTRATOR_REGISTRY_MIRROR", Fault(status=429, body=LIMIT)),
            (4, "docker login", Fault(status=401, body=error("UNAUTHORIZED", "unauthorized"))),
            (5, "--update", Fault(status=404, body=error("MANIFEST_UNKNOWN", "manifest unknown"))),
            (6, "other bytes than the locked ones", Fault(swap=tiny_image().manifest)),
            (6, "verification failed", Fault(path="/blobs/", corrupt=True)),
            (3, "did not answer within 1 s", Fault(stall=True)),
            (3, "did not answer within 1 s", Fault(path="/blobs/", stall=True, after=30)),
        ):
            fault.path, fault.times = fault.path or "/manifests/", 1000
            with self.subTest(text, status=status):
                self.lock_another()
                ran = self.pull(fault, seconds="1" if fault.stall else "60")
                self.assertEqual(status, ran.status, ran)
                self.assertIn(text, ran.err)
                self.assertNotIn("(6 of", ran.err)
                self.assertEqual(status in (3, 8), "trying again" in ran.err)
                for name in (self.image.reference.tagged, self.built.config):
                    self.assertIsNone(self.engine.images.find(name))
                self.proxy.over.set()
                self.proxy.over = threading.Event()
                self.assert_succeeds(self.pull())
