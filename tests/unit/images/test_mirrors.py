"""Mirrors: which beginning counts, and what replaces it."""

import unittest

from orchestrator.errors import SettingsError
from orchestrator.images.reference import mirrored, parse_reference
from orchestrator.settings import Settings

VARIABLE = "ORCHESTRATOR_REGISTRY_MIRROR"
DIGEST = "sha256:" + "a" * 64


def by_way_of(mirrors: str, reference: str) -> str:
    """Where a reference comes from with these mirrors."""
    settings = Settings.from_environment({VARIABLE: mirrors})
    return str(mirrored(parse_reference(reference), settings=settings))


class MirroredTest(unittest.TestCase):
    """`mirrored`."""

    def test_rewriting(self) -> None:
        """The longest beginning counts, at the borders of parts; tag and digest stay."""
        both = "docker.io=m.example/hub, docker.io/team=own.example:5000 ghcr.io=m.example/gh"
        for mirrors, reference, expected in (
            ("", "redis:7", "docker.io/library/redis:7"),
            ("m.example", "redis:7", "m.example/library/redis:7"),
            ("m.example/hub/", "redis:7", "m.example/hub/library/redis:7"),
            ("m.example", "ghcr.io/a:1", "ghcr.io/a:1"),
            (both, "redis:7", "m.example/hub/library/redis:7"),
            (both, "team/app:1", "own.example:5000/app:1"),
            (both, "teams/app:1", "m.example/hub/teams/app:1"),
            (both, f"ghcr.io/a/b:1@{DIGEST}", f"m.example/gh/a/b:1@{DIGEST}"),
            (both, "quay.io/a:1", "quay.io/a:1"),
        ):
            with self.subTest(mirrors=mirrors, reference=reference):
                self.assertEqual(expected, by_way_of(mirrors, reference))

    def test_malformed(self) -> None:
        """What is no mirror is refused with the variable's name; passwords are not repeated."""
        for value in (
            "https://m.example",
            "user:secret@m.example",
            "https://user:secret@m.example/x",
            "docker.io=",
            "=m.example",
            "a=b=c d",
            "docker.io=a,docker.io=b",
            "m example/..",
        ):
            with self.subTest(value), self.assertRaises(SettingsError) as caught:
                Settings.from_environment({VARIABLE: value})
            self.assertIn(VARIABLE, str(caught.exception))
            self.assertNotIn("secret", str(caught.exception))
