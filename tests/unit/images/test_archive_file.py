"""Archives in memory: what comes out of a reader that trusts nothing, and how much it takes in."""

import hashlib
import io
import json
import tarfile
import tempfile
import unittest
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import DigestMismatchError, LockError
from orchestrator.images.archive_file import Contents, compressed, open_archive, rewritten
from orchestrator.images.archive_images import check_images, closing_members
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


def members_of(raw: bytes) -> dict[str, bytes]:
    """The files in a tar."""
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        return {m.name: file.read() for m in tar if (file := tar.extractfile(m))}


LAYER = b"a layer, compressed"
PLAIN = digest_of(b"the same, not compressed")
CONFIG = as_json({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [PLAIN]}})
MANIFEST = as_json(
    {"config": {"digest": digest_of(CONFIG)}, "layers": [{"digest": digest_of(LAYER)}]}
)
INDEX = as_json({"manifests": [{"digest": digest_of(MANIFEST)}]})
TAG = "docker.io/library/app:1"


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


def entry(digest: str, **platforms: str) -> LockedImage:
    """An entry for app:1, with config digests by architecture."""
    reference = parse_reference("app:1").with_digest(digest)
    locked = {f"linux/{name}": LockedPlatform(config=config) for name, config in platforms.items()}
    return LockedImage(name="app", reference=reference, platforms=locked)


def check(raw: bytes, wanted: LockedImage) -> bytes:
    """Run an archive through and return what the daemon would get."""
    contents = Contents()

    def finish() -> Iterator[tuple[str, bytes]]:
        images = check_images(contents, {"app": wanted}, name="x.tar")
        return closing_members(contents, images, {"app": wanted})

    return b"".join(rewritten(io.BytesIO(raw), contents, name="x.tar", finish=finish))


class LayoutTest(unittest.TestCase):
    """The layout that daemons with the containerd store write, and newer ones without."""

    def test_index_is_proof(self) -> None:
        """An archive that has the index itself needs no config digest in the lock."""
        passed = members_of(check(tar_of(MEMBERS), entry(digest_of(INDEX))))
        self.assertEqual(MEMBERS.keys() | {"oci-layout"}, passed.keys())
        [image] = json.loads(passed["manifest.json"])
        self.assertEqual(
            {"Config": blob(CONFIG), "Layers": [blob(LAYER)], "RepoTags": [TAG]}, image
        )
        [top] = json.loads(passed["index.json"])["manifests"]
        self.assertEqual((digest_of(INDEX), len(INDEX)), (top["digest"], top["size"]))
        self.assertEqual(TAG, top["annotations"]["io.containerd.image.name"])

    def test_config_proves_plain_layers_only(self) -> None:
        """Layers that only an unproven manifest names are not the config's."""
        wanted = entry("sha256:" + "9" * 64, amd64=digest_of(CONFIG))
        with self.assertRaisesRegex(LockError, "layer blobs/.* of .*app:1 is not"):
            check(tar_of(MEMBERS), wanted)

    def test_lock_of_the_platform_counts(self) -> None:
        """Where the lock knows another config for the platform, the index is not enough."""
        with self.assertRaises(DigestMismatchError):
            check(tar_of(MEMBERS), entry(digest_of(INDEX), amd64=digest_of(b"other")))

    def test_strange_documents(self) -> None:
        """Documents of another form are a short LockError."""
        [listed] = json.loads(MEMBERS["manifest.json"])
        for name, value in (
            ("manifest.json", {}),
            ("manifest.json", [1]),
            ("manifest.json", [{}]),
            ("manifest.json", [{"Config": 1, "Layers": [], "RepoTags": []}]),
            ("manifest.json", [{"Config": blob(CONFIG), "Layers": [], "RepoTags": 5}]),
            ("manifest.json", [{"Config": blob(CONFIG), "Layers": [{}], "RepoTags": ["APP:1"]}]),
            ("manifest.json", [{"Config": "x" * 100_000, "Layers": [], "RepoTags": []}]),
            ("manifest.json", [{**listed, "Layers": ["x" * 100_000]}]),
            ("manifest.json", [{**listed, "RepoTags": [f"app:{n}" for n in range(10_000)]}]),
            ("manifest.json", [listed, {**listed, "Config": f"./{blob(CONFIG)}"}]),
            (blob(INDEX), [1]),
            (blob(CONFIG), {"rootfs": 1}),
        ):
            members = {**MEMBERS, name: as_json(value)}
            with self.subTest(name=name, value=str(value)[:100]):
                with self.assertRaises(LockError) as caught:
                    check(tar_of(members), entry(digest_of(INDEX)))
                self.assertLess(len(str(caught.exception)), 1000)


class AnyDamageTest(unittest.TestCase):
    """Whatever happens to an archive, its end is not handed out before it is verified."""

    raw = tar_of(MEMBERS)
    wanted = entry(digest_of(INDEX))

    def passes(self, raw: bytes) -> None:
        """It passes with the right content under names of ours, or is a LockError."""
        try:
            passed = members_of(check(raw, self.wanted))
        except LockError:
            return
        self.assertEqual([TAG], json.loads(passed["manifest.json"])[0]["RepoTags"])
        for name in (blob(LAYER), blob(CONFIG)):
            self.assertEqual(MEMBERS[name], passed[name])

    @settings(max_examples=60)
    @given(st.integers(0, len(raw)), st.binary(max_size=2000), st.integers(0, 2000))
    def test_inserted(self, place: int, inserted: bytes, lost: int) -> None:
        """Something else stands in the middle of it."""
        self.passes(self.raw[:place] + inserted + self.raw[place + lost :])


class _Endless:
    """A beginning, and then as many bytes as anybody wants to read."""

    def __init__(self, beginning: bytes, rest: Callable[[], bytes]) -> None:
        self._beginning = io.BytesIO(beginning)
        self._rest = rest
        self._piece = b""
        self.given = 0

    def read(self, size: int = -1, /) -> bytes:
        """So many bytes."""
        piece = self._beginning.read(size)
        while len(piece) < size:
            self._piece = self._piece or self._rest()
            more = self._piece[: size - len(piece)]
            self._piece = self._piece[len(more) :]
            piece += more
        self.given += len(piece)
        if self.given > 400 << 20:
            raise AssertionError("it reads on and on")
        return piece


def huge(name: str, kind: bytes = tarfile.REGTYPE, *, size: int = 400 << 20) -> bytes:
    """A header that promises so many bytes."""
    about = tarfile.TarInfo(name)
    about.type, about.size = kind, size
    return about.tobuf(tarfile.GNU_FORMAT)


class BoundsTest(unittest.TestCase):
    """However large something says it is, little of it is read."""

    def test_sizes(self) -> None:
        """Headers, documents, and numbers of them that no archive of images has are refused."""
        count = iter(range(1 << 40))
        empty = huge("x", tarfile.XHDTYPE, size=0)
        records = huge("x", tarfile.XHDTYPE, size=1 << 20) + b"8 a=bcd\n" * (1 << 17)
        document = b"{" + b" " * (1 << 20)

        def member(name: str, content: bytes = b"") -> bytes:
            return tar_of({name: content})[: 512 + len(content) + -len(content) % 512]

        many: dict[str, tuple[bytes, Callable[[], bytes]]] = {
            "a PAX header": (huge("x", tarfile.XHDTYPE), lambda: b"x" * 65536),
            "a long name": (huge("x", tarfile.GNUTYPE_LONGNAME), lambda: b"x" * 65536),
            "holes": (huge("x", tarfile.GNUTYPE_SPARSE), lambda: b"x" * 65536),
            "a device": (huge("x", tarfile.CHRTYPE), lambda: b"x" * 65536),
            "headers without end": (b"", lambda: empty * 128),
            "a manifest": (huge("manifest.json"), lambda: b" " * 65536),
            "documents": (b"", lambda: member(f"{next(count)}", document)),
            "files": (b"", lambda: member(f"{next(count)}")),
            "headers with records": (b"", lambda: records + member(f"{next(count)}")),
            "what follows the end": (bytes(1024), lambda: bytes(1 << 16)),
        }
        for what, (beginning, rest) in many.items():
            with self.subTest(what):
                source = _Endless(beginning, rest)
                stream = rewritten(source, Contents(), name="x.tar", finish=list)
                with self.assertRaisesRegex(LockError, "x.tar is cut off or damaged"):
                    for _ in stream:
                        pass
                self.assertLess(source.given, 64 << 20)

    def test_bomb(self) -> None:
        """A small file that unpacks without end is given up."""
        with tempfile.TemporaryDirectory() as folder:
            for name in ("a.tar.gz", "a.tar.zst"):
                path = Path(folder) / name
                with path.open("wb") as file, compressed(file, name=name) as out:
                    for _ in range(100):
                        out.write(bytes(1 << 20))
                with (
                    self.subTest(name),
                    mock.patch("orchestrator.images.archive_file._UNPACKED_ALWAYS", 1 << 20),
                    open_archive(path) as stream,
                    self.assertRaisesRegex(LockError, "unpacks to more than 100 times"),
                ):
                    while stream.read(1 << 20):
                        pass


class CompressionTest(unittest.TestCase):
    """`compressed` and `open_archive`."""

    text = b"text " * 100_000

    def setUp(self) -> None:
        """Work in an own folder."""
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def write(self, name: str) -> Path:
        """Write a file, compressed as its name says."""
        path = self.folder / name
        with path.open("wb") as file, compressed(file, name=name) as out:
            out.write(self.text)
        return path

    def test_damage(self) -> None:
        """What is cut off, damaged or followed by something is a LockError while it is read."""
        for name in ("a.tar.gz", "a.tar.zst"):
            whole = self.write(name).read_bytes()
            for what, raw in {
                "cut off": whole[:-6],
                "another checksum": whole[:-8] + b"abcd" + whole[-4:],
                "something behind": whole + b"garbage",
                "another byte": whole[:40] + bytes([whole[40] ^ 255]) + whole[41:],
            }.items():
                (path := self.folder / name).write_bytes(raw)
                with (
                    self.subTest(name, what=what),
                    open_archive(path) as stream,
                    self.assertRaisesRegex(LockError, f"{name} is cut off or damaged: "),
                ):
                    while stream.read(1 << 20):
                        pass

    def test_other_formats(self) -> None:
        """What is compressed in a way that is not read here is told what is."""
        for raw in (b"\xfd7zXZ\0 and so on", b"PK\x03\x04 and so on" * 100, b"x"):
            (path := self.folder / "a.tar").write_bytes(raw)
            with self.subTest(raw[:9]), self.assertRaisesRegex(LockError, r"a\.tar is .*\.tar\.gz"):
                self.enterContext(open_archive(path))
