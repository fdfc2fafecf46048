"""Archives in memory: the layout of the containerd store, and any damage at all."""

import hashlib
import io
import json
import tarfile
import unittest
from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import DigestMismatchError, LockError
from orchestrator.images.archive_check import check_images
from orchestrator.images.archive_stream import END, Contents, checked_stream
from orchestrator.images.lockfile import LockedImage, LockedPlatform
from orchestrator.images.reference import parse_reference


def digest_of(content: bytes) -> str:
    """The digest of some bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def as_json(value: Any) -> bytes:
    """JSON in bytes."""
    return json.dumps(value).encode()


def tar_of(members: Mapping[str, bytes]) -> bytes:
    """A tar with these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return buffer.getvalue()


LAYER = b"a layer, compressed or not"
CONFIG = as_json({"rootfs": {"diff_ids": ["sha256:" + "0" * 64]}})
MANIFEST = as_json({"config": {"digest": digest_of(CONFIG)}, "layers": []})
INDEX = as_json({"manifests": [{"digest": digest_of(MANIFEST)}]})


def blob(content: bytes) -> str:
    """Where the layout keeps a blob."""
    return f"blobs/sha256/{digest_of(content)[7:]}"


MEMBERS = {
    "index.json": as_json({"manifests": [{"digest": digest_of(INDEX)}]}),
    "manifest.json": as_json(
        [{"Config": blob(CONFIG), "Layers": [blob(LAYER)], "RepoTags": ["app:1"]}]
    ),
    **{blob(content): content for content in (LAYER, CONFIG, MANIFEST, INDEX)},
}


def entry(digest: str, *, config: str | None = None) -> LockedImage:
    """An entry for app:1."""
    platforms = {"linux/amd64": LockedPlatform(config=config)} if config else {}
    reference = parse_reference("app:1").with_digest(digest)
    return LockedImage(name="app", reference=reference, platforms=platforms)


def check(raw: bytes, wanted: LockedImage) -> bytes:
    """Run an archive through and return what the daemon would get."""
    contents = Contents()
    stream = checked_stream(
        io.BytesIO(raw),
        contents,
        name="x.tar",
        on_member=lambda _: None,
        verify=lambda: check_images(contents, {"app": wanted}, name="x.tar"),
    )
    return b"".join(stream)


class LayoutTest(unittest.TestCase):
    """The layout that daemons with the containerd store write, and newer ones without."""

    def test_index_is_proof(self) -> None:
        """An archive that has the index itself needs no config digest in the lock."""
        check(tar_of(MEMBERS), entry(digest_of(INDEX)))

    def test_manifest_is_proof(self) -> None:
        """So does the manifest, for an image that was locked without index."""
        check(tar_of(MEMBERS), entry(digest_of(MANIFEST)))

    def test_config_is_proof(self) -> None:
        """The config is proof as ever."""
        check(tar_of(MEMBERS), entry("sha256:" + "9" * 64, config=digest_of(CONFIG)))

    def test_other_index(self) -> None:
        """Another index is refused."""
        with self.assertRaisesRegex(DigestMismatchError, "app: app:1 in x.tar"):
            check(tar_of(MEMBERS), entry("sha256:" + "9" * 64))

    def test_blob(self) -> None:
        """A blob that is not what its name says is refused."""
        for content in (LAYER, CONFIG, MANIFEST, INDEX):
            with self.subTest(content), self.assertRaises(LockError):
                check(tar_of({**MEMBERS, blob(content): content + b" "}), entry(digest_of(INDEX)))

    def test_passes_unchanged(self) -> None:
        """What passes is what came in, up to the end."""
        raw = tar_of(MEMBERS)
        passed = check(raw, entry(digest_of(INDEX)))
        self.assertEqual(raw.rstrip(b"\0"), passed.rstrip(b"\0"))
        self.assertTrue(passed.endswith(END))

    def test_strange_documents(self) -> None:
        """Documents of another form are a LockError."""
        for name, value in (
            ("manifest.json", {}),
            ("manifest.json", [1]),
            ("manifest.json", [{"Config": 1, "Layers": [], "RepoTags": []}]),
            ("manifest.json", [{"Config": blob(CONFIG), "Layers": [], "RepoTags": None}]),
            ("manifest.json", [{"Config": "x", "Layers": 1, "RepoTags": 1}]),
            ("manifest.json", [{"Config": blob(CONFIG), "Layers": [], "RepoTags": 5}]),
            ("manifest.json", [{"Config": blob(CONFIG), "Layers": 5, "RepoTags": []}]),
            ("manifest.json", [{"Config": [], "Layers": [], "RepoTags": []}]),
            ("index.json", [1]),
        ):
            members = {**MEMBERS, name: as_json(value)}
            with self.subTest(name=name, value=value), self.assertRaises(LockError):
                check(tar_of(members), entry(digest_of(INDEX)))


class AnyDamageTest(unittest.TestCase):
    """Whatever happens to an archive, its end is not handed out before it is verified."""

    raw = tar_of(MEMBERS)
    wanted = entry(digest_of(INDEX), config=digest_of(CONFIG))

    def passes(self, raw: bytes) -> None:
        """It passes with the right content, or is a LockError."""
        try:
            passed = check(raw, self.wanted)
        except LockError:
            return
        with tarfile.open(fileobj=io.BytesIO(passed)) as tar:
            for name in (blob(LAYER), blob(CONFIG)):
                file = tar.extractfile(name)
                assert file
                self.assertEqual(MEMBERS[name], file.read())

    @settings(max_examples=300)
    @given(st.integers(0, len(raw) - 1), st.integers(1, 255))
    def test_changed_byte(self, place: int, change: int) -> None:
        """One byte is another."""
        raw = bytearray(self.raw)
        raw[place] ^= change
        self.passes(bytes(raw))

    @given(st.integers(0, len(raw)))
    def test_cut(self, length: int) -> None:
        """It ends too early."""
        self.passes(self.raw[:length])

    @given(st.integers(0, len(raw)), st.binary(max_size=2000), st.integers(0, 2000))
    def test_inserted(self, place: int, inserted: bytes, lost: int) -> None:
        """Something else stands in the middle of it."""
        self.passes(self.raw[:place] + inserted + self.raw[place + lost :])

    @given(st.binary(max_size=3000))
    def test_any_bytes(self, raw: bytes) -> None:
        """It is something else altogether."""
        self.passes(raw)
