"""Archives made to put other bytes under a locked name: whatever they try, they do not."""

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from orchestrator.images import ensure_image
from orchestrator.images.archive import MEMBER
from orchestrator.settings import Settings
from tests.support.image_case import ImageTestCase
from tests.support.tiny_images import tiny_image

NEVER = Settings(pull="never")

Members = list[tuple[tarfile.TarInfo, bytes]]


def file(name: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    """One member."""
    about = tarfile.TarInfo(name)
    about.size = len(content)
    return about, content


def link(name: str, target: str, *, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    """A link."""
    about = tarfile.TarInfo(name)
    about.type, about.linkname = kind, target
    return about, b""


def read(raw: bytes) -> Members:
    """The members of a tar."""
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        return [(m, f.read() if (f := tar.extractfile(m)) else b"") for m in tar]


def written(members: Members) -> bytes:
    """A tar of members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for about, content in members:
            tar.addfile(about, io.BytesIO(content))
    return out.getvalue()


class HostileTest(ImageTestCase):
    """A locked image, an archive of it, and another image that an attacker has."""

    def setUp(self) -> None:
        """Save the locked image."""
        super().setUp()
        self.image = self.push(name="app")
        self.tag = self.image.reference.tagged
        self.write_lock(self.image)
        self.assertEqual(0, self.command("pull").status)
        self.write_lock(self.image, platforms=False)  # so that the archive has a proof of its own
        self.assertEqual(0, self.command("save", "good.tar").status)
        self.write_lock(self.image)
        self.good = read(Path("good.tar").read_bytes())
        for name in (self.tag, self.image.reference.pinned):
            self.engine.images.remove(name)
        self.evil = tiny_image()
        self.addCleanup(self.engine.images.remove, self.evil.config)
        [listed] = json.loads(next(c for m, c in self.good if m.name == "manifest.json"))
        self.config, self.layer = listed["Config"], listed["Layers"][0]

    def evil_files(self, *, config: str = "evil.json", layer: str = "evil.tar") -> Members:
        """The attacker's image."""
        packed = [b for d, b in self.evil.blobs.items() if d != self.evil.config]
        plain = subprocess.run(["gzip", "-dc"], input=packed[0], capture_output=True, check=True)
        return [file(config, self.evil.blobs[self.evil.config]), file(layer, plain.stdout)]

    def manifest(self, config: str, layer: str, *tags: str) -> tuple[tarfile.TarInfo, bytes]:
        """A manifest of one image."""
        item = {"Config": config, "Layers": [layer], "RepoTags": list(tags)}
        return file("manifest.json", json.dumps([item]).encode())

    def attacks(self) -> Iterator[tuple[str, Members]]:
        """Archives by what they try."""
        config, layer, good = self.config, self.layer, self.good
        evil = self.evil_files()
        for twice in ("./{}", "x/../{}", "/{}", "../{}", "{}"):
            again = self.evil_files(config=twice.format(config), layer=twice.format(layer))
            yield f"spelt {twice}, behind", [*good, *again]
            yield f"spelt {twice}, in front", [*again, *good]
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            over = [link(config, "evil.json", kind=kind), link(layer, "evil.tar", kind=kind)]
            yield f"links {kind!r} over files", [*evil, *good, *over]
            yield f"links {kind!r} under files", [*evil, *over, *good]
        away = [link("d", "/etc"), *self.evil_files(config=f"d/{config}")]
        yield "a link to a folder", [*away, *good]
        yield "a second manifest", [*good, *evil, self.manifest("evil.json", "evil.tar", self.tag)]
        rest = [(m, c) for m, c in good if m.name != "manifest.json"]
        yield "another image", [*rest, *evil, self.manifest("evil.json", "evil.tar", self.tag)]
        yield "another layer", [*rest, *evil, self.manifest(config, "evil.tar", self.tag)]
        more = json.loads({m.name: c for m, c in good}["manifest.json"])
        for tags in ([self.tag], ["orchestrator-test/evil:1"], []):
            both = [*more, {"Config": "evil.json", "Layers": ["evil.tar"], "RepoTags": tags}]
            yield (
                f"a second image {tags}",
                [*rest, *evil, file("manifest.json", json.dumps(both).encode())],
            )
        more[0]["RepoTags"].append("orchestrator-test/evil:1")
        yield "a second tag", [*rest, file("manifest.json", json.dumps(more).encode())]
        claim = f'version = 1\n[images.other]\nreference = "{self.image.reference.name}:2"\n'
        claim += f'digest = "{self.evil.digest}"\n'
        claim += f'platforms."linux/amd64" = {{ config = "{self.evil.config}" }}\n'
        others = [(m, c) for m, c in rest if m.name != MEMBER]
        manifest = self.manifest("evil.json", "evil.tar", self.tag)
        for name, text in {
            "entries that the lock does not know": claim,
            "an entry of the same name": claim.replace("other", "app"),
            "a locked entry with another config": claim.replace(":2", ":1")
            .replace("other", "app")
            .replace(self.evil.digest, str(self.image.digest)),
        }.items():
            yield name, [file(MEMBER, text.encode()), *others, *evil, manifest]

    def test_attacks(self) -> None:
        """None loads other bytes or moves a tag, and each is refused with a reason."""
        bystander = tiny_image()
        self.registry.pusher.push("bystander", "1", bystander)
        other = self.push(bystander, name="other")
        ensure_image(self.engine, other, settings=Settings())
        self.engine.images.tag(bystander.config, as_reference=self.tag)
        for platforms in (True, False):
            self.write_lock(self.image, platforms=platforms)
            for name, members in self.attacks():
                with self.subTest(name, platforms=platforms):
                    Path("x.tar").write_bytes(written(members))
                    ran = self.command("load", "x.tar")
                    self.assertIn(ran.status, (1, 6), ran)
                    self.assertRegex(ran.err, r"orchestrator load: \S*\s?.*x\.tar")
                    self.assertIsNone(self.engine.images.find(self.evil.config))
                    self.assertIsNone(self.engine.images.find("orchestrator-test/evil:1"))
                    here = self.engine.images.find(self.tag)
                    self.assertEqual(bystander.config, here and here.id)

    def test_harmless(self) -> None:
        """Folders, other spellings and the old store's files do no harm, and reach no daemon."""
        folder = tarfile.TarInfo("./")
        folder.type = tarfile.DIRTYPE
        members: Members = [(folder, b"")]
        for about, content in self.good:
            about.name = f"./{about.name}"
            members.append((about, content))
        members += self.evil_files()
        Path("x.tar").write_bytes(written(members))
        ran = self.command("load", "x.tar")
        self.assertEqual(0, ran.status, ran)
        info = ensure_image(self.engine, self.image, settings=NEVER)
        self.assertEqual(self.image.platforms["linux/amd64"].config, info.id)
        self.assertIsNone(self.engine.images.find(self.evil.config))

    def test_put_back(self) -> None:
        """When the proof cannot be noted, tag and images are as they were before."""
        other = self.push(self.evil, name="other")
        ensure_image(self.engine, other, settings=Settings())
        unwritable = self.folder / ("l" * 250)  # what is written beside it has a longer name
        self.write_lock(self.image, platforms=False).rename(unwritable)
        env = {"ORCHESTRATOR_IMAGES_LOCK": str(unwritable)}
        for tagged in (False, True):
            if tagged:
                self.engine.images.tag(self.evil.config, as_reference=self.tag)
            ran = self.command("load", "good.tar", env=env)
            self.assertEqual(1, ran.status, ran)
            self.assertIn("cannot be written", ran.err)
            here = self.engine.images.find(self.tag)
            self.assertEqual(self.evil.config if tagged else None, here and here.id)
            self.assertIsNone(self.engine.images.find(self.image.platforms["linux/amd64"].config))
