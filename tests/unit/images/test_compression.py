"""Compressed archives, and machines that cannot compress."""

import subprocess
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from orchestrator.errors import LockError
from orchestrator.images.compression import compressed, open_archive

TEXT = b"text " * 100_000


class CompressionTest(unittest.TestCase):
    """`compressed` and `open_archive`."""

    def setUp(self) -> None:
        """Work in an own folder."""
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def write(self, name: str) -> Path:
        """Write a file, compressed as its name says."""
        path = self.folder / name
        with path.open("wb") as file, compressed(file, name=name) as out:
            out.write(TEXT)
        return path

    def test_round_trip(self) -> None:
        """What was written is read, and is smaller where it is compressed."""
        for name in ("a.tar", "a.tar.gz", "a.tgz", "a.tar.zst", "a.tzst"):
            with self.subTest(name), open_archive(self.write(name)) as stream:
                self.assertEqual(TEXT, b"".join(iter(lambda: stream.read(9999), b"")))
            size = (self.folder / name).stat().st_size
            self.assertEqual(name == "a.tar", size >= len(TEXT))

    def test_programs_read_it(self) -> None:
        """The usual programs read it."""
        for program, name in (("gzip", "a.tar.gz"), ("zstd", "a.tar.zst")):
            argv = [program, "-dc", str(self.write(name))]
            with self.subTest(name):
                run = subprocess.run(argv, capture_output=True, check=True)
                self.assertEqual(TEXT, run.stdout)

    def test_no_zstandard(self) -> None:
        """Without anything that knows zstandard both ways say what to install."""
        path = self.write("a.tar.zst")
        with (
            mock.patch("orchestrator.images.compression._library", return_value=None),
            mock.patch("shutil.which", return_value=None),
        ):
            with self.assertRaisesRegex(LockError, "zstd.*apt-get install zstd"):
                self.write("b.tar.zst")
            with (
                self.assertRaisesRegex(LockError, "zstd.*apt-get install zstd"),
                open_archive(path),
            ):
                pass

    def test_left_early(self) -> None:
        """Nothing hangs and no process stays when reading or writing stops in the middle."""
        path = self.write("a.tar.zst")
        for _ in range(3):
            with self.assertRaises(KeyError), open_archive(path) as stream:
                stream.read(10)
                raise KeyError
            with (
                self.assertRaises(KeyError),
                path.with_suffix(".b").open("wb") as file,
                compressed(file, name="b.zst") as out,
            ):
                out.write(TEXT)
                raise KeyError
