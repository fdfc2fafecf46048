"""The lock file: what is read, the error for everything else, and what is written."""

import contextlib
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from orchestrator.errors import LockError
from orchestrator.images.lock import NEW, edited, write_entries
from orchestrator.images.lockfile import (
    LockedImage,
    LockedPlatform,
    find_lock,
    parse_lock,
    read_lock,
)
from orchestrator.images.reference import parse_reference
from orchestrator.settings import Settings

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
PATH = Path("images.lock")
GOOD = f"""version = 1

[images.redis]  # the cache
reference = "redis:7"
digest = "{A}"
platforms."linux/amd64" = {{ manifest = "{B}", config = "{C}" }}
"""


def changed(old: str, new: str) -> bytes:
    """The good lock file with one thing wrong."""
    assert old in GOOD
    return GOOD.replace(old, new).encode()


def image(name: str, reference: str, digest: str, *platforms: str) -> LockedImage:
    """An entry whose platforms all have the same config."""
    return LockedImage(
        name=name,
        reference=parse_reference(reference).with_digest(digest),
        platforms={platform: LockedPlatform(config=C, manifest=B) for platform in platforms},
    )


class LockFileTest(unittest.TestCase):
    """What is read, found and written."""

    def setUp(self) -> None:
        """Work in an own folder."""
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory())).resolve()

    def test_errors(self) -> None:
        """Each mistake is named with file and entry, those of TOML with the line."""
        entry = "images.lock: entry 'redis': "
        for raw, message in {
            changed('digest = "', "digest = "): "images.lock:5: ",
            changed(f'"{A}"', '"sha256:abc"'): f"{entry}digest is 'sha256:abc'; expected",
            changed("digest = ", "digset = "): f"{entry}unknown key 'digset'",
            changed(f'digest = "{A}"\n', ""): f"{entry}digest is None",
            changed("redis:7", "Redis:7"): f"{entry}image reference 'Redis:7'",
            changed("redis:7", f"redis:7@{A}"): f"{entry}the digest goes into",
            changed(f', config = "{C}"', ""): f"{entry}linux/amd64: expected config and manifest",
            changed(C, "sha256:1"): f"{entry}linux/amd64: config is 'sha256:1'",
            changed("linux/amd64", "linux"): f"{entry}'linux' is not a platform",
            changed("version = 1", "version = 2"): "'version = 1' at the top, not 2",
            changed("version = 1", ""): "images.lock: expected 'version = 1' at the top",
            changed("version = 1", "version = 1\nx = 1"): "images.lock: unknown key 'x'",
            GOOD.encode() * 2: "images.lock:9: ",
            (GOOD + '[images."a b"]').encode(): "images.lock: entry 'a b': a name may hold",
            b"version = 1\nimages = 1": "images.lock: images is not a table",
            b"version = 1\n\xff": "images.lock:2: not UTF-8",
            b"a = " + b"[" * 100_000: "images.lock: not TOML",
        }.items():
            with self.subTest(message), self.assertRaises(LockError) as caught:
                parse_lock(raw, path=PATH)
            self.assertIn(message, str(caught.exception))

    def test_conflict(self) -> None:
        """One reference under two names must have one digest."""
        twin = GOOD.partition("\n")[2].replace("images.redis", "images.cache")
        lock = parse_lock((GOOD + twin).encode(), path=PATH)
        self.assertEqual(["redis", "cache"], list(lock.entries))
        with self.assertRaisesRegex(LockError, "images.lock: entry 'cache': redis:7 is also"):
            parse_lock((GOOD + twin.replace(A, B)).encode(), path=PATH)

    def test_order(self) -> None:
        """The lock file of a folder above is found, before it what the variable names."""
        (self.folder / "images.lock").write_text(GOOD, encoding="utf-8")
        (other := self.folder / "other.lock").write_text(GOOD, encoding="utf-8")
        (deep := self.folder / "a" / "b").mkdir(parents=True)
        self.enterContext(contextlib.chdir(deep))
        self.assertEqual(self.folder / "images.lock", find_lock(Settings()).path)
        self.assertEqual(other, find_lock(Settings(images_lock=other)).path)

    def test_default(self) -> None:
        """Without any, the packaged lock serves, whose entries are those of the project's own."""
        self.enterContext(contextlib.chdir(self.folder))
        lock = find_lock(Settings())
        self.assertTrue(lock.is_default)
        self.assertEqual({"kafka", "postgres", "python", "redis", "redpanda"}, set(lock.entries))
        own = read_lock(Path(__file__).parents[3] / "images.lock")
        for name, entry in lock.entries.items():
            self.assertEqual(own.entries[name], entry)

    def test_without_tomlkit(self) -> None:
        """Adding an entry needs nothing; changing one says what to install."""
        with mock.patch.dict(sys.modules, tomlkit=None):
            edited(GOOD, path=PATH, images=[image("tiger", "tiger:1", B)])
            with self.assertRaisesRegex(LockError, r"pip install 'unittest-orchestrator\[lock\]'"):
                edited(GOOD, path=PATH, images=[image("redis", "redis:7", B)])

    def test_whatever_is_written_is_read(self) -> None:
        """Entries that are new or changed, in any order, read back as they were written."""
        text, wanted = NEW, {}
        for entry in (
            image("b-_9", "b:1", A),
            image("a", "a:1", B, "linux/arm64/v8", "linux/amd64"),
            image("b-_9", "b:2", C, "linux/arm/v7"),
            image("a", "a:1", B),
        ):
            wanted[entry.name] = entry
            text = edited(text, path=PATH, images=[entry])
        self.assertEqual(wanted, dict(parse_lock(text.encode(), path=PATH).entries))

    def test_changed_meanwhile(self) -> None:
        """A file somebody else changed in the meantime is not overwritten."""
        path = self.folder / "images.lock"
        path.write_text("theirs", encoding="utf-8")
        with self.assertRaisesRegex(LockError, "changed by somebody else"):
            write_entries(parse_lock(NEW.encode(), path=path), [image("redis", "redis:7", A)])
        self.assertEqual("theirs", path.read_text(encoding="utf-8"))
        self.assertEqual([path], list(path.parent.iterdir()))
