"""References: how they are read and resolved, also in a Dockerfile, and where mirrors have them."""

import unittest
from pathlib import Path
from typing import Any

from orchestrator.errors import (
    DeclarationError,
    ImageNotLockedError,
    InvalidReferenceError,
    LockError,
    SettingsError,
)
from orchestrator.images import LockedImage, parse_reference, resolve_image
from orchestrator.images.lockfile import parse_lock
from orchestrator.images.reference import mirrored, with_images
from orchestrator.settings import Settings

DIGEST = "sha256:" + "a" * 64
VARIABLE = "ORCHESTRATOR_REGISTRY_MIRROR"


def by_way_of(mirrors: str, reference: str) -> str:
    """Where a reference comes from with these mirrors."""
    settings = Settings.from_environment({VARIABLE: mirrors})
    return str(mirrored(parse_reference(reference), settings=settings))


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


def resolve(image: str | None, *, default: str = "redis", **settings: Any) -> LockedImage:
    """Resolve against the lock of this module."""
    return resolve_image(image, default=default, lock=LOCK, settings=Settings(**settings))


def locked(text: str, **args: str) -> str:
    """The Dockerfile, each image marked."""
    return with_images(text, lambda image: f"<{image}>", args=args)


class ReferenceTest(unittest.TestCase):
    """How a reference is read, where it comes from, what it is resolved to."""

    def test_normal_form(self) -> None:
        """Every way to write a reference has one form in full."""
        for text, expected in {
            "postgres": "docker.io/library/postgres:latest",
            "postgres:15-alpine": "docker.io/library/postgres:15-alpine",
            "docker.io/postgres:15": "docker.io/library/postgres:15",
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
            "redis@sha256:abc": "not a digest",
            "library/Redis": "lower-case",
            "a//b": "'' is no part",
            "-redis": "'-redis' is no part",
            "a..b/c": "not a registry",
            "a" * 300: "longer than 255",
        }.items():
            with self.subTest(text), self.assertRaises(InvalidReferenceError) as caught:
                parse_reference(text)
            self.assertIn(reason, str(caught.exception))
            self.assertIn(repr(text), str(caught.exception))

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

    def test_allowed(self) -> None:
        """Unlocked ones by ORCHESTRATOR_UNLOCKED; of ORCHESTRATOR_REGISTRIES, whole parts count."""
        self.assertEqual("docker.io/library/redis:8", str(resolve("redis:8", unlocked="allow")))
        for place in ("ghcr.io/tea", "ghcr.i"):
            with self.subTest(place), self.assertRaisesRegex(LockError, f"REGISTRIES has {place}"):
                resolve("other", registries=(place,))

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

    def test_each_image_is_replaced(self) -> None:
        """Whatever the case, the platform and the stage's name."""
        for text, expected in {
            "FROM redis": "FROM <redis>",
            "from redis:7 as base": "from <redis:7> as base",
            "FROM --platform=linux/amd64 redis": "FROM --platform=linux/amd64 <redis>",
            "FROM a\nCOPY --from=busybox:1 /a /b": "FROM <a>\nCOPY --from=<busybox:1> /a /b",
            "FROM a\nCOPY --chown=1 --from=b /a /b": "FROM <a>\nCOPY --chown=1 --from=<b> /a /b",
            "FROM \\\n# a remark\n a\nCOPY \\ \n--from=b /a /b": "FROM  <a>\nCOPY --from=<b> /a /b",
            "FROM a\nRUN --mount=from=b,dst=/b ls": "FROM <a>\nRUN --mount=from=<b>,dst=/b ls",
            "FROM a\nRUN echo \\\\\nFROM b": "FROM <a>\nRUN echo \\\\\nFROM <b>",
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

    def test_a_file_that_cannot_be_read_is_refused(self) -> None:
        """One without an image, and one whose lines go on in another way."""
        with self.assertRaisesRegex(DeclarationError, "no FROM"):
            locked("RUN true")
        with self.assertRaisesRegex(DeclarationError, "escape="):
            locked("# escape=`\nFROM a\nLABEL path=c:\\\nFROM b")

    def test_variables(self) -> None:
        """They have what is given, else their default; without a value they are an error."""
        text = "ARG BASE=redis\nARG TAG\nFROM ${BASE}:$TAG"
        self.assertEqual("ARG BASE=redis\nARG TAG\nFROM <redis:7>", locked(text, TAG="7"))
        self.assertIn("<kafka:7>", locked(text, TAG="7", BASE="kafka"))
        for form, expected in {
            "${NO:-a}": "a",
            "${EMPTY:-a}": "a",
            "${SET:+a}": "a",
            "a${NO:+b}": "a",
        }.items():
            with self.subTest(form):
                head = "ARG EMPTY=\nARG SET=1\nFROM "
                self.assertEqual(f"{head}<{expected}>", locked(head + form))
        for form, words in {
            "$NO": r"variable NO has no value; give it one in Build\(args=…\)",
            "${NO:?must}": "NO is not set: must",
            "a$": "a \\$ that is no variable",
        }.items():
            with self.subTest(form), self.assertRaisesRegex(DeclarationError, words):
                locked(f"ARG EMPTY=\nFROM {form}")
