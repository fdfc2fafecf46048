"""ORCHESTRATOR_REGISTRY_MIRROR: other places, the same bytes."""

import uuid
from pathlib import Path

from orchestrator.images import LockedImage, parse_reference, read_lock
from tests.support.fault_proxy import Fault, fault_proxy
from tests.support.image_case import ImageTestCase
from tests.support.tiny_images import TinyImage, tiny_image

VARIABLE = "ORCHESTRATOR_REGISTRY_MIRROR"


class MirrorTest(ImageTestCase):
    """A mirror for a registry that is not there at all."""

    def setUp(self) -> None:
        """Have an image that is locked as one of Docker Hub and is at the mirror only."""
        super().setUp()
        self.built = tiny_image()
        self.team = f"orchestrator-test-{uuid.uuid4().hex[:12]}"
        self.image = self.push_as_hub(self.built)
        self.write_lock(self.image)

    def push_as_hub(self, built: TinyImage, *, tag: str = "1") -> LockedImage:
        """Push to ``hub/TEAM/app`` of the mirror what is locked as ``docker.io/TEAM/app``."""
        at_mirror = self.push(built, repository=f"hub/{self.team}/app", tag=tag)
        reference = parse_reference(f"{self.team}/app:{tag}").with_digest(at_mirror.digest)
        image = LockedImage(name="app", reference=reference, platforms=at_mirror.platforms)
        self.forget(image)
        return image

    def test_lock(self) -> None:
        """Lock asks the mirror and writes the name without it."""
        env = {VARIABLE: f"docker.io/{self.team}={self.registry.host}/hub/{self.team}"}
        Path("images.lock").unlink()
        ran = self.command("lock", f"{self.team}/app:1", env=env)
        self.assertEqual(0, ran.status, ran)
        self.assertEqual(self.image, read_lock(Path("images.lock")).entries["app"])

    def test_lying_mirror(self) -> None:
        """A mirror that delivers other bytes is refused."""
        with fault_proxy(self.registry.host) as proxy:
            other = tiny_image().manifest
            proxy.faults = [Fault(path="/manifests/", swap=other, times=1000)]
            ran = self.command("pull", env={VARIABLE: f"{proxy.host}/hub"})
        self.assertEqual(6, ran.status, ran)
        self.assertIn(f"by way of {proxy.host}/hub", ran.err)
        self.assertIsNone(self.engine.images.find(self.image.reference.tagged))
