"""From what a service asks for to one locked image."""

import unittest
from pathlib import Path

from orchestrator.errors import ImageNotLockedError, LockError
from orchestrator.images import LockedImage, resolve_image
from orchestrator.images.lockfile import DEFAULT, parse_lock, read_lock
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

    def test_found(self) -> None:
        """By the service's own entry, another entry's name, or a locked reference in any form."""
        for image, name in (
            (None, "redis"),
            ("other", "other"),
            ("redis:7", "redis"),
            ("docker.io/library/redis:7", "redis"),
        ):
            with self.subTest(image):
                self.assertEqual(LOCK.entries[name], resolve(image))

    def test_own_digest(self) -> None:
        """A reference with a digest needs no entry; one with the same digest tells platforms."""
        self.assertEqual(f"docker.io/library/redis:7@{B}", str(resolve(f"redis:7@{B}").reference))
        self.assertEqual(C, resolve(f"redis@{A}").platforms["linux/amd64"].config)

    def test_not_locked(self) -> None:
        """The error has the command that locks what is meant."""
        for image, default, words in (
            ("redis:8", "redis", "not lock 'redis:8'; did you mean 'redis:7'.* lock redis:8 "),
            ("rediss", "redis", r"not lock 'rediss'; did you mean 'redis'\? Lock it"),
            ("ghcr.io/team/ap:1", "redis", r"did you mean 'ghcr.io/team/app:1'\?"),
            ("mysql", "redis", r"not lock 'mysql'\. Lock it"),
            (None, "postgres", "no entry 'postgres'.* lock postgres:15-alpine "),
            (None, "mysql", "lock mysql=REFERENCE"),
        ):
            with self.subTest(words), self.assertRaisesRegex(ImageNotLockedError, words):
                resolve(image, default=default)

    def test_allowed(self) -> None:
        """ORCHESTRATOR_UNLOCKED=allow lets references through, and services' packaged entries."""
        self.assertEqual("docker.io/library/redis:8", str(resolve("redis:8", settings=ALLOW)))
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

    def test_only_whole_parts_count(self) -> None:
        """A name that merely begins alike belongs to somebody else."""
        for name in ("ghcr.io/tea", "ghcr.i"):
            with self.subTest(name), self.assertRaises(LockError):
                resolve("other", settings=Settings(registries=(name,)))
