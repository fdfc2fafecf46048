"""Archives that are refused before any daemon is asked, and how much of one is read."""

import gzip
import json
import tarfile
import tempfile
import unittest
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import DigestMismatchError, LockError
from orchestrator.images.archive import load_images
from orchestrator.images.lockfile import LockedImage, LockedPlatform, LockFile
from orchestrator.images.reference import parse_reference
from orchestrator.settings import Settings
from tests.support.tiny_images import digest_of, tar_of

if TYPE_CHECKING:
    from orchestrator.engine.docker import Engine


def blob(content: bytes) -> str:
    """Where the layout keeps a blob."""
    return f"blobs/sha256/{digest_of(content)[7:]}"


LAYER, CONFIG = b"a layer", b'{"os": "linux"}'
LISTED = {"Config": blob(CONFIG), "Layers": [blob(LAYER)], "RepoTags": ["app:1"]}
TOP = {
    "digest": digest_of(b"manifest"),
    "annotations": {"io.containerd.image.name": "docker.io/library/app:1"},
}
MEMBERS = {
    "index.json": json.dumps({"manifests": [TOP]}).encode(),
    "manifest.json": json.dumps([LISTED]).encode(),
    **{blob(content): content for content in (LAYER, CONFIG)},
}


class ReachedError(Exception):
    """The daemon was asked."""


class AnyEngine:
    """Stands for a daemon, which none of these archives may reach."""

    @property
    def images(self) -> Any:
        """What is asked first."""
        raise ReachedError


class ArchiveTest(unittest.TestCase):
    """A folder, and an entry that locks app:1 by its config, by which its image is known."""

    raw = tar_of(MEMBERS.items())

    def setUp(self) -> None:
        """Make the folder."""
        super().setUp()
        self.path = Path(self.enterContext(tempfile.TemporaryDirectory())) / "x.tar"

    def load(self, raw: bytes, *, config: bytes | None = CONFIG, index: str = "") -> None:
        """Load it."""
        self.path.write_bytes(raw)
        platforms = {"linux/amd64": LockedPlatform(config=digest_of(config))} if config else {}
        reference = parse_reference("app:1").with_digest(index or digest_of(b"index"))
        entry = LockedImage(name="app", reference=reference, platforms=platforms)
        lock = LockFile(path=Path("images.lock"), text="", entries={"app": entry})
        load_images(cast("Engine", AnyEngine()), self.path, lock, settings=Settings())

    def test_locked(self) -> None:
        """A locked config, or in an archive of containerd's store a locked index, is enough."""
        for config, index in ((CONFIG, ""), (None, digest_of(b"manifest"))):
            with self.subTest(config), self.assertRaises(ReachedError):
                self.load(tar_of(MEMBERS.items()), config=config, index=index)

    def test_not_locked(self) -> None:
        """Another config, or none that is locked, is refused with what mends it."""
        with self.assertRaisesRegex(DigestMismatchError, "does not lock.*orchestrator save FILE"):
            self.load(tar_of(MEMBERS.items()), config=b"another")
        with self.assertRaisesRegex(DigestMismatchError, "note the digests.*orchestrator lock"):
            self.load(tar_of(MEMBERS.items()), config=None)

    def test_strange_documents(self) -> None:
        """Documents of another form, or that name more than there is, are a short LockError.

        Also to the daemon, for which keys may be in any case, and whose containerd has other names.
        """
        deep = b'{"manifests": [], "x": %b}' % (b"[" * 5000 + b"]" * 5000)
        other = {"org.opencontainers.image.ref.name": "docker.io/library/b:1"}
        for name, value in (
            ("manifest.json", {}),
            ("manifest.json", [1]),
            ("manifest.json", [{}]),
            ("manifest.json", [{"Config": 1, "RepoTags": []}]),
            ("manifest.json", [{**LISTED, "RepoTags": 5}]),
            ("manifest.json", [{**LISTED, "RepoTags": ["APP:1"]}]),
            ("manifest.json", [{**LISTED, "Config": "x" * 100_000}]),
            ("manifest.json", [{**LISTED, "RepoTags": [f"app:{n}" for n in range(10_000)]}]),
            ("manifest.json", [{**LISTED, "config": blob(LAYER)}]),
            ("manifest.json", [LISTED, {"Config": blob(CONFIG), "repotags": ["b:1"]}]),
            ("index.json", deep),
            ("index.json", {"manifests": [{**TOP, "annotations": other}]}),
            ("index.json", [1]),
            ("index.json", {"manifests": [{**TOP, "annotations": {**TOP, "x": 1}}, 5]}),
            ("index.json", json.loads(json.dumps({"manifests": [TOP]}).replace("app:1", "b:1"))),
        ):
            with self.subTest(name=name, value=str(value)[:100]):
                raw = value if isinstance(value, bytes) else json.dumps(value).encode()
                with self.assertRaises(LockError) as caught:
                    self.load(tar_of({**MEMBERS, name: raw}.items()))
                self.assertLess(len(str(caught.exception)), 1000)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, len(raw)), st.binary(max_size=2000), st.integers(0, 2000))
    def test_inserted(self, place: int, inserted: bytes, lost: int) -> None:
        """Whatever stands in the middle of one, it is whole for the daemon or a LockError."""
        with self.assertRaises((LockError, ReachedError)):
            self.load(self.raw[:place] + inserted + self.raw[place + lost :])

    def test_compressed(self) -> None:
        """What is cut off, damaged or followed by something is told apart from a good one."""
        whole = gzip.compress(self.raw)
        with self.assertRaises(ReachedError):
            self.load(whole)
        for what, raw in {
            "cut off": whole[:-6],
            "another checksum": whole[:-8] + b"abcd" + whole[-4:],
            "something behind": whole + b"garbage",
            "another byte": whole[:40] + bytes([whole[40] ^ 255]) + whole[41:],
        }.items():
            with self.subTest(what), self.assertRaisesRegex(LockError, "is cut off or damaged: "):
                self.load(raw)

    def test_other_formats(self) -> None:
        """What is compressed in a way that is not read here is told what is."""
        for raw in (b"\xfd7zXZ\0 and so on", b"PK\x03\x04 and so on" * 100, b"x"):
            with self.subTest(raw[:9]), self.assertRaisesRegex(LockError, r"x\.tar is .*\.tar\.gz"):
                self.load(raw)

    def test_strange_members(self) -> None:
        """Links, devices, names outside, twice or in headers, and endless headers are refused."""

        def header(
            name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", size: int = 0
        ) -> bytes:
            about = tarfile.TarInfo(name)
            about.type, about.size, about.linkname = kind, size, link
            return about.tobuf(tarfile.GNU_FORMAT)

        path = b"17 path=index.js\n"
        sizes = b"12 size=%d\n9 size=0\n" % len(MEMBERS["index.json"])
        many = {
            "a link": header("index.js", tarfile.SYMTYPE, link="manifest.json"),
            "a hard link": header("index.js", tarfile.LNKTYPE, link="manifest.json"),
            "a device": header("x", tarfile.CHRTYPE),
            "holes": header("x", tarfile.GNUTYPE_SPARSE),
            "a name outside": header("../x"),
            "an absolute name": header("/manifest.json"),
            "a name in two spellings": header("./x/../manifest.json"),
            "a long name": header("x", tarfile.GNUTYPE_LONGNAME, size=1 << 30),
            "a large header": header("x", tarfile.XHDTYPE, size=1 << 30),
            "a name in a header": header("x", tarfile.XHDTYPE, size=len(path))
            + path.ljust(512, b"\0"),
            "two sizes in a header": header("x", tarfile.XHDTYPE, size=len(sizes))
            + sizes.ljust(512, b"\0"),
            "files without end": b"".join(header(f"f{n}") for n in range(5000)),
        }
        for what, member in many.items():
            with self.subTest(what), self.assertRaisesRegex(LockError, "is cut off or damaged"):
                self.load(member + self.raw)

    def test_bomb(self) -> None:
        """A small file that unpacks without end is given up."""
        with (
            mock.patch("orchestrator.images.archive._UNPACKED_ALWAYS", 1 << 20),
            self.assertRaisesRegex(LockError, "unpacks to more than 100 times"),
        ):
            self.load(gzip.compress(tar_of([("x", bytes(100 << 20))])))
