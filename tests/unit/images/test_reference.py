"""References: how they are read, what is said of the others, and where mirrors have them."""

import unittest

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvalidReferenceError, SettingsError
from orchestrator.images import parse_reference
from orchestrator.images.reference import mirrored
from orchestrator.settings import Settings

DIGEST = "sha256:" + "a" * 64
VARIABLE = "ORCHESTRATOR_REGISTRY_MIRROR"


def by_way_of(mirrors: str, reference: str) -> str:
    """Where a reference comes from with these mirrors."""
    settings = Settings.from_environment({VARIABLE: mirrors})
    return str(mirrored(parse_reference(reference), settings=settings))


class ParseReferenceTest(unittest.TestCase):
    """`parse_reference`."""

    def test_normal_form(self) -> None:
        """Every way to write a reference has one form in full."""
        for text, expected in {
            "postgres": "docker.io/library/postgres:latest",
            "postgres:15-alpine": "docker.io/library/postgres:15-alpine",
            "docker.io/postgres:15": "docker.io/library/postgres:15",
            "index.docker.io/library/postgres:15": "docker.io/library/postgres:15",
            "apache/kafka:4.1.1": "docker.io/apache/kafka:4.1.1",
            "localhost/app": "localhost/app:latest",
            "127.0.0.1:5001/a/b_c/d--e:1": "127.0.0.1:5001/a/b_c/d--e:1",
            "[::1]:5000/app:1": "[::1]:5000/app:1",
            f"redis@{DIGEST}": f"docker.io/library/redis@{DIGEST}",
            f"ghcr.io/a/b:c@{DIGEST}": f"ghcr.io/a/b:c@{DIGEST}",
        }.items():
            with self.subTest(text):
                self.assertEqual(expected, str(parse_reference(text)))

    def test_reason(self) -> None:
        """The error quotes the reference and says which part of it is wrong."""
        for text, reason in {
            "": "part of a repository",
            " redis": "blank",
            "https://redis": "scheme",
            "redis:": "not a tag",
            "redis:" + "a" * 129: "not a tag",
            "redis@sha256:abc": "not a digest",
            "redis@": "not a digest",
            "library/Redis": "lower-case",
            "a//b": "'' is no part",
            "ghcr.io/": "'' is no part",
            "-redis": "'-redis' is no part",
            "a..b/c": "not a registry",
            "a" * 300: "longer than 255",
        }.items():
            with self.subTest(text), self.assertRaises(InvalidReferenceError) as caught:
                parse_reference(text)
            self.assertIn(reason, str(caught.exception))
            self.assertIn(repr(text), str(caught.exception))

    def test_not_text(self) -> None:
        """Something that is not text is named."""
        with self.assertRaisesRegex(InvalidReferenceError, "None cannot be read: it is not text"):
            parse_reference(None)  # type: ignore[arg-type]

    @given(st.text(max_size=60) | st.from_regex(r"[a-zA-Z0-9.:/@_\-\[\]]{1,40}", fullmatch=True))
    def test_any_text(self, text: str) -> None:
        """Any text is a reference or an InvalidReferenceError, and what is read reads again."""
        try:
            reference = parse_reference(text)
        except InvalidReferenceError:
            return
        self.assertEqual(reference, parse_reference(str(reference)))


class MirroredTest(unittest.TestCase):
    """`mirrored`."""

    def test_rewriting(self) -> None:
        """The longest beginning counts, at the borders of parts; tag and digest stay."""
        both = "docker.io=m.example/hub, docker.io/team=own.example:5000 ghcr.io=m.example/gh"
        for mirrors, reference, expected in (
            ("", "redis:7", "docker.io/library/redis:7"),
            ("m.example/hub/", "redis:7", "m.example/hub/library/redis:7"),
            ("m.example", "ghcr.io/a:1", "ghcr.io/a:1"),
            (both, "redis:7", "m.example/hub/library/redis:7"),
            (both, "team/app:1", "own.example:5000/app:1"),
            (both, "teams/app:1", "m.example/hub/teams/app:1"),
            (both, f"ghcr.io/a/b:1@{DIGEST}", f"m.example/gh/a/b:1@{DIGEST}"),
        ):
            with self.subTest(mirrors=mirrors, reference=reference):
                self.assertEqual(expected, by_way_of(mirrors, reference))

    def test_malformed(self) -> None:
        """What is no mirror is refused with the variable's name; passwords are not repeated."""
        for value in (
            "https://user:secret@m.example/x",
            "docker.io=",
            "docker.io=a,docker.io=b",
            "m example/..",
        ):
            with self.subTest(value), self.assertRaises(SettingsError) as caught:
                Settings.from_environment({VARIABLE: value})
            self.assertIn(VARIABLE, str(caught.exception))
            self.assertNotIn("secret", str(caught.exception))
