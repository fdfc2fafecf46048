"""The commands lock and pull, also with a registry that fails, stalls, cuts, lies, answers 429."""

import json
import threading
from unittest import mock

from orchestrator.images import LockedImage, failures, read_lock
from tests.support.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.support.image_case import ImageTestCase
from tests.support.processes import Ran, run_command
from tests.support.tiny_images import tiny_image


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


class LockAndPullTest(ImageTestCase):
    """The commands lock and pull: adding, updating, checking entries; what is missing is pulled."""

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
