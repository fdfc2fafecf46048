"""Rewriting lock files: what changes, what stays, and when it is refused."""

import re
import sys
import tempfile
import threading
import unittest
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import LockError
from orchestrator.images.lock import NEW, edited, write_entries
from orchestrator.images.lockfile import LockedImage, LockedPlatform, parse_lock, read_lock
from orchestrator.images.reference import parse_reference

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
PATH = Path("images.lock")
BASE = f"""# head
version = 1

# the cache
[images.redis] # here
reference = "redis:7"    # short form
digest = "{A}"
# platforms:
platforms."linux/amd64" = {{ config = "{A}" }}

# the store
[images.zebra]
reference = 'zebra:1'
digest = '{A}'
"""


def image(name: str, reference: str, digest: str, *platforms: str) -> LockedImage:
    """An entry whose platforms all have the same config."""
    return LockedImage(
        name=name,
        reference=parse_reference(reference).with_digest(digest),
        platforms={platform: LockedPlatform(config=C, manifest=B) for platform in platforms},
    )


class EditedTest(unittest.TestCase):
    """`edited`."""

    def edit(self, *images: LockedImage, text: str = BASE) -> str:
        """The text with these entries."""
        return edited(text, path=PATH, images=images)

    def test_reference_and_digest(self) -> None:
        """A digest changes one word; a reference is written in full, comments stay."""
        expected = BASE.replace(f"'{A}'", f'"{B}"')
        self.assertEqual(expected, self.edit(image("zebra", "zebra:1", B)))
        text = self.edit(image("redis", "redis:8", A, "linux/amd64"))
        self.assertIn('reference = "docker.io/library/redis:8"    # short form', text)

    def test_platforms(self) -> None:
        """Platforms are replaced where they stand, in the order of their names."""
        text = self.edit(image("redis", "redis:7", A, "linux/s390x", "linux/amd64"))
        pair = f'{{ manifest = "{B}", config = "{C}" }}'
        lines = f'platforms."linux/amd64" = {pair}\nplatforms."linux/s390x" = {pair}\n'
        self.assertEqual(
            BASE.replace(f'platforms."linux/amd64" = {{ config = "{A}" }}\n', lines), text
        )

    def test_new(self) -> None:
        """A new entry goes to the end."""
        table = f'\n[images.tiger]\nreference = "docker.io/library/tiger:1"\ndigest = "{B}"\n'
        self.assertEqual(BASE + table, self.edit(image("tiger", "tiger:1", B)))

    def test_removed_platform(self) -> None:
        """A platform that is gone takes the comment of its line with it, and no other."""
        text = BASE.replace('" }\n', '" } # this one\n')
        changed = self.edit(image("redis", "redis:7", A), text=text)
        self.assertEqual("".join(re.sub(r"platforms\..*\n", "", text)), changed)

    def test_without_tomlkit(self) -> None:
        """Adding an entry needs nothing; changing one says what to install."""
        with mock.patch.dict(sys.modules, tomlkit=None):
            self.edit(image("tiger", "tiger:1", B))
            with self.assertRaisesRegex(LockError, r"pip install 'unittest-orchestrator\[lock\]'"):
                self.edit(image("zebra", "zebra:1", B))

    @settings(max_examples=5)
    @given(
        st.lists(
            st.tuples(
                st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True),
                st.sampled_from((A, B, C)),
                st.sets(st.sampled_from(("linux/amd64", "linux/arm64/v8", "linux/arm/v7"))),
            ),
            max_size=6,
        )
    )
    def test_whatever_is_written_is_read(self, rows: list[tuple[str, str, set[str]]]) -> None:
        """Any entries, in any order, read back as they were written."""
        text = NEW
        wanted: dict[str, LockedImage] = {}
        for number, (name, digest, platforms) in enumerate(rows):
            entry = image(name, f"image{number}:1", digest, *platforms)
            wanted[name] = entry
            text = edited(text, path=PATH, images=[entry])
        self.assertEqual(wanted, dict(parse_lock(text.encode(), path=PATH).entries))


class WriteEntriesTest(unittest.TestCase):
    """`write_entries`."""

    def test_changed_meanwhile(self) -> None:
        """A file somebody else changed in the meantime is not overwritten."""
        path = Path(self.enterContext(tempfile.TemporaryDirectory())) / "images.lock"
        path.write_text("theirs", encoding="utf-8")
        with self.assertRaisesRegex(LockError, "changed by somebody else"):
            write_entries(parse_lock(NEW.encode(), path=path), [image("redis", "redis:7", A)])
        self.assertEqual("theirs", path.read_text(encoding="utf-8"))
        self.assertEqual([path], list(path.parent.iterdir()))

    def test_never_half(self) -> None:
        """Whoever reads at the same time sees the old text or the new one."""
        path = Path(self.enterContext(tempfile.TemporaryDirectory())) / "images.lock"
        path.write_text(NEW, encoding="utf-8")
        seen: set[int] = set()
        over = threading.Event()

        def read() -> None:
            while not over.is_set():
                seen.add(len(read_lock(path).entries))

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for number in range(20):
                write_entries(read_lock(path), [image(f"a{number}", f"a{number}:1", A)])
        finally:
            over.set()
            reader.join()
        self.assertEqual(20, len(read_lock(path).entries))
