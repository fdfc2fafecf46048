"""From what a service asks for to one locked image."""

import unittest
from pathlib import Path

from orchestrator.errors import ImageNotLockedError, LockError
from orchestrator.images import LockedImage, resolve_image
from orchestrator.images.lockfile import DEFAULT, check_allowed, parse_lock, read_lock
from orchestrator.settings import Settings

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
LOCK = parse_lock(
    f"""version = 1
[images.redis]
reference = "redis:7"
digest = "{A}"
platforms."linux/amd64" = {{ config = "{C}" }}
[images.other]
reference = "ghcr.io/team/app:1"
digest = "{B}"
""".encode(),
    path=Path("images.lock"),
)
ALLOW = Settings(unlocked="allow")


def resolve(
    image: str | None, *, default: str = "redis", settings: Settings | None = None
) -> LockedImage:
    """Resolve against the lock of this module."""
    return resolve_image(image, default=default, lock=LOCK, settings=settings or Settings())


class ResolveImageTest(unittest.TestCase):
    """`resolve_image`."""

    def test_service_entry(self) -> None:
        """Without image= the service's own entry counts."""
        self.assertEqual(LOCK.entries["redis"], resolve(None))

    def test_locked_reference(self) -> None:
        """A locked reference has the digest of its entry, however it is written."""
        for text in ("redis:7", "docker.io/redis:7", "docker.io/library/redis:7"):
            with self.subTest(text):
                self.assertEqual(LOCK.entries["redis"], resolve(text))

    def test_own_digest(self) -> None:
        """A reference with a digest needs no entry, and no entry changes its digest."""
        self.assertEqual(f"docker.io/library/redis:7@{B}", str(resolve(f"redis:7@{B}").reference))

    def test_not_locked(self) -> None:
        """The error has the command that locks the reference."""
        with self.assertRaisesRegex(
            ImageNotLockedError, r"images.lock does not lock 'redis:8'.* lock redis:8 "
        ):
            resolve("redis:8")

    def test_unknown_service_not_locked(self) -> None:
        """A missing entry of an unknown service asks for a reference."""
        with self.assertRaisesRegex(ImageNotLockedError, "lock mysql=REFERENCE"):
            resolve(None, default="mysql", settings=ALLOW)

    def test_allowed(self) -> None:
        """ORCHESTRATOR_UNLOCKED=allow lets a reference through without digest."""
        image = resolve("redis:8", settings=ALLOW)
        self.assertEqual("docker.io/library/redis:8", str(image))
        self.assertIsNone(image.digest)

    def test_allowed_service(self) -> None:
        """It lets a service fall back to the packaged entry."""
        expected = read_lock(DEFAULT).entries["postgres"]
        self.assertEqual(expected, resolve(None, default="postgres", settings=ALLOW))


class RegistriesTest(unittest.TestCase):
    """``ORCHESTRATOR_REGISTRIES``."""

    def test_an_image_from_elsewhere_is_refused(self) -> None:
        """Locked or not: the message names the image, the variable and what it has."""
        settings = Settings(registries=("ghcr.io/team",))
        for image in (None, "redis", "redis:7", f"redis@{A}"):
            with self.subTest(image), self.assertRaises(LockError) as raised:
                resolve(image, settings=settings)
            self.assertIn("docker.io/library/redis", str(raised.exception))
            self.assertIn("ORCHESTRATOR_REGISTRIES has ghcr.io/team", str(raised.exception))

    def test_every_image_from_elsewhere_is_named(self) -> None:
        """One message, so that a lock file is mended at once."""
        settings = Settings(registries=("quay.io",))
        with self.assertRaises(LockError) as raised:
            check_allowed(LOCK.entries.values(), settings=settings)
        both = "docker.io/library/redis, ghcr.io/team/app are not from an allowed registry"
        self.assertIn(both, str(raised.exception))

    def test_only_whole_parts_count(self) -> None:
        """A name that merely begins alike belongs to somebody else."""
        for name in ("ghcr.io/tea", "ghcr.i"):
            with self.subTest(name), self.assertRaises(LockError):
                resolve("other", settings=Settings(registries=(name,)))
