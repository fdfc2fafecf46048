"""The images a Dockerfile stands on."""

from __future__ import annotations

import unittest

from orchestrator.errors import DeclarationError
from orchestrator.images.dockerfile import with_images


def locked(text: str, **args: str) -> str:
    """The Dockerfile, each image marked."""
    return with_images(text, lambda image: f"<{image}>", args=args)


class DockerfileTest(unittest.TestCase):
    """`with_images`."""

    def test_each_image_is_replaced(self) -> None:
        """Whatever the case, the platform and the stage's name."""
        for text, expected in {
            "FROM redis": "FROM <redis>",
            "from redis:7 as base": "from <redis:7> as base",
            "FROM --platform=linux/amd64 redis": "FROM --platform=linux/amd64 <redis>",
            "FROM a\nCOPY --from=busybox:1 /a /b": "FROM <a>\nCOPY --from=<busybox:1> /a /b",
            "FROM a\nCOPY --chown=1 --from=b /a /b": "FROM <a>\nCOPY --chown=1 --from=<b> /a /b",
        }.items():
            with self.subTest(text):
                self.assertEqual(expected, locked(text))

    def test_stages_are_no_images(self) -> None:
        """Names and numbers of stages, and nothing, stay as they are."""
        copies = "COPY --from=build /a /b\nCOPY --from=0 /a /b"
        text = f"FROM a AS Build\nFROM build\n{copies}\nFROM scratch"
        self.assertEqual(text.replace("FROM a", "FROM <a>"), locked(text))

    def test_a_line_that_goes_on_is_no_instruction(self) -> None:
        """SQL has a FROM as well."""
        text = 'FROM a\nRUN psql -c "select 1 \\\n# a remark\n  FROM b"\n# FROM c'
        self.assertEqual(text.replace("FROM a", "FROM <a>"), locked(text))

    def test_a_file_without_an_image_is_refused(self) -> None:
        """It is not a Dockerfile."""
        with self.assertRaisesRegex(DeclarationError, "no FROM"):
            locked("RUN true")

    def test_variables(self) -> None:
        """They have what is given, else their default; without a value they are an error."""
        text = "ARG BASE=redis\nARG TAG\nFROM ${BASE}:$TAG"
        self.assertEqual("ARG BASE=redis\nARG TAG\nFROM <redis:7>", locked(text, TAG="7"))
        self.assertIn("<kafka:7>", locked(text, TAG="7", BASE="kafka"))
        for form, expected in {
            "${NO:-a}": "a",
            "${NO-a}": "a",
            "${EMPTY:-a}": "a",
            "${SET:+a}": "a",
            "a${NO:+b}": "a",
        }.items():
            with self.subTest(form):
                head = "ARG EMPTY=\nARG SET=1\nFROM "
                self.assertEqual(f"{head}<{expected}>", locked(head + form))
        for form, words in {
            "$NO": r"variable NO has no value; give it one in Build\(args=…\)",
            "$EMPTY": "EMPTY has no value",
            "${NO:?must}": "NO is not set: must",
            "a$": "a \\$ that is no variable",
        }.items():
            with self.subTest(form), self.assertRaisesRegex(DeclarationError, words):
                locked(f"ARG EMPTY=\nFROM {form}")
