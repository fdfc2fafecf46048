"""References: the grammar, the normal form, the reasons given for what cannot be read."""

import unittest

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvalidReferenceError
from orchestrator.images import Reference, parse_reference

DIGEST = "sha256:" + "a" * 64


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
            "": "empty",
            " redis": "blank",
            "redis\n": "blank",
            "https://redis": "scheme",
            "redis:": "not a tag",
            "redis:a b": "not a tag",
            "redis:" + "a" * 129: "not a tag",
            "redis@sha256:abc": "not a digest",
            "redis@": "not a digest",
            "library/Redis": "lower case",
            "a//b": "empty part",
            "a/": "empty part",
            "ghcr.io/": "no repository",
            "-redis": "may hold",
            "a..b/c": "not a registry",
            "a" * 300: "longer than 255",
            "réd": "may hold",
        }.items():
            with self.subTest(text), self.assertRaises(InvalidReferenceError) as caught:
                parse_reference(text)
            self.assertIn(reason, str(caught.exception))
            self.assertIn(repr(text), str(caught.exception))

    def test_not_text(self) -> None:
        """Something that is not text is named."""
        with self.assertRaisesRegex(InvalidReferenceError, "None is not text"):
            parse_reference(None)  # type: ignore[arg-type]

    def test_parts(self) -> None:
        """A port is no tag."""
        expected = Reference(registry="localhost:5000", repository="a/b", tag="latest")
        self.assertEqual(expected, parse_reference("localhost:5000/a/b"))

    def test_familiar(self) -> None:
        """People see the short form."""
        for text in ("postgres:15", "apache/kafka:4", "ghcr.io/a:1"):
            with self.subTest(text):
                self.assertEqual(text, parse_reference(text).familiar)

    def test_pinned_needs_digest(self) -> None:
        """A reference without digest cannot be pinned."""
        with self.assertRaises(InvalidReferenceError):
            _ = parse_reference("redis").pinned

    @given(st.text(max_size=60))
    def test_any_text(self, text: str) -> None:
        """Any text is a reference or an InvalidReferenceError, and what is read reads again."""
        try:
            reference = parse_reference(text)
        except InvalidReferenceError:
            return
        self.assertEqual(reference, parse_reference(str(reference)))

    @given(st.from_regex(r"[a-zA-Z0-9.:/@_\-\[\]]{1,40}", fullmatch=True))
    def test_likely_text(self, text: str) -> None:
        """The same for text made of a reference's own characters."""
        try:
            reference = parse_reference(text)
        except InvalidReferenceError:
            return
        self.assertEqual(reference, parse_reference(str(reference)))
