"""What tests of the image supply begin with: an engine, registries, images that go away again."""

import contextlib
import os
import tempfile
import unittest
import uuid
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from orchestrator.engine import connect
from orchestrator.engine.docker import Engine
from orchestrator.images import LockedImage, LockedPlatform, parse_reference
from orchestrator.settings import Settings
from tests.support.registries import PROGRAM, Registry, registry
from tests.support.tiny_images import TinyImage, tiny_image


@unittest.skipUnless(PROGRAM, "docker-registry is not installed: ci/setup brings it")
class ImageTestCase(unittest.TestCase):
    """A test that pushes images of its own to a registry of its class."""

    settings = Settings()
    engine: Engine
    registry: Registry

    @classmethod
    def setUpClass(cls) -> None:
        """Start the registry."""
        super().setUpClass()
        cls.engine = connect(cls.settings)
        cls.addClassCleanup(cls.engine.close)
        cls.registry = cls.enterClassContext(cls.start_registry())

    @classmethod
    @contextlib.contextmanager
    def start_registry(cls) -> Iterator[Registry]:
        """The registry of this class."""
        with tempfile.TemporaryDirectory() as folder, registry(Path(folder)) as found:
            yield found

    def setUp(self) -> None:
        """Work in an empty folder, with nothing of this process's environment that matters."""
        super().setUp()
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory())).resolve()
        self.enterContext(contextlib.chdir(self.folder))
        kept = {k: v for k, v in os.environ.items() if not k.startswith("ORCHESTRATOR_")}
        self.enterContext(mock.patch.dict(os.environ, kept, clear=True))

    def push(
        self,
        *images: TinyImage,
        name: str = "app",
        tag: str = "1",
        repository: str | None = None,
        host: str | None = None,
    ) -> LockedImage:
        """Push images (by default a new one) and return the entry that locks them."""
        images = images or (tiny_image(),)
        repository = repository or f"orchestrator-test-{uuid.uuid4().hex[:12]}/{name}"
        digest = self.registry.pusher.push(repository, tag, *images)
        platforms = {
            image.platform: LockedPlatform(manifest=image.digest, config=image.config)
            for image in images
        }
        reference = parse_reference(f"{host or self.registry.host}/{repository}:{tag}")
        locked = LockedImage(
            name=name, reference=reference.with_digest(digest), platforms=platforms
        )
        self.forget(locked)
        return locked

    def forget(self, image: LockedImage) -> None:
        """Remove an image from the daemon after the test."""
        names = [image.reference.pinned, image.reference.tagged]
        names += [platform.config for platform in image.platforms.values()]
        for name in names:
            self.addCleanup(self.engine.images.remove, name)

    def write_lock(self, *images: LockedImage, platforms: bool = True) -> Path:
        """Write images.lock into the working directory."""
        lines = ["version = 1"]
        for image in images:
            lines += ["", f"[images.{image.name}]", f'reference = "{image.reference.tagged}"']
            lines += [f'digest = "{image.digest}"']
            for name, locked in image.platforms.items() if platforms else ():
                pair = f'manifest = "{locked.manifest}", config = "{locked.config}"'
                lines.append(f'platforms."{name}" = {{ {pair} }}')
        path = self.folder / "images.lock"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path
