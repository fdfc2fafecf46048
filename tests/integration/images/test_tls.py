"""A registry whose certificate is of a private CA, at an address docker does not trust blindly."""

import contextlib
import os
import shutil
import tempfile
import unittest
from collections.abc import Iterator
from pathlib import Path

from orchestrator.images import read_lock
from tests.support.image_case import ImageTestCase
from tests.support.registries import Registry, registry

CERTIFICATES = Path("/etc/docker/certs.d")


@unittest.skipUnless(os.geteuid() == 0, "only root may put a certificate where the daemon looks")
class TlsTest(ImageTestCase):
    """Locking and pulling over TLS."""

    @classmethod
    @contextlib.contextmanager
    def start_registry(cls) -> Iterator[Registry]:
        """A registry with TLS on the address of Docker's bridge, which is not loopback."""
        address = cls.engine.bridge_gateway()
        if address is None:
            raise unittest.SkipTest("this daemon has no bridge network of its own")
        with (
            tempfile.TemporaryDirectory() as folder,
            registry(Path(folder), address=address, tls=True) as found,
        ):
            yield found

    def setUp(self) -> None:
        """Have an image."""
        super().setUp()
        self.image = self.push()

    def trust(self) -> None:
        """Put the CA where docker looks."""
        folder = CERTIFICATES / self.registry.host
        folder.mkdir(parents=True)
        self.addCleanup(shutil.rmtree, folder)
        assert self.registry.ca
        shutil.copy(self.registry.ca, folder / "ca.crt")

    def test_trusted(self) -> None:
        """With the CA in certs.d both the daemon and lock trust the registry."""
        self.trust()
        ran = self.command("lock", self.image.reference.tagged)
        self.assertEqual(0, ran.status, ran)
        self.assertEqual(self.image, read_lock(self.folder / "images.lock").entries["app"])
        ran = self.command("pull")
        self.assertEqual(0, ran.status, ran)

    def test_not_trusted(self) -> None:
        """Without it both refuse at once, with status 9 and where the CA belongs."""
        self.write_lock(self.image)
        for argv in (("pull",), ("lock", "--update")):
            with self.subTest(argv):
                ran = self.command(*argv)
                self.assertEqual(9, ran.status, ran)
                self.assertIn("/etc/docker/certs.d/REGISTRY/ca.crt", ran.err)
                self.assertNotIn("trying again", ran.err)
