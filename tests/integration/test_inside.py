"""What is done inside a running container: commands and files; and what it reaches outside."""

import time
import unittest
from pathlib import Path

from orchestrator import Container, File, ServicesMixin
from orchestrator.errors import DeclarationError, ServiceError
from tests.support.classes import LeakCheckedTestCase

SLEEP = ["sleep", "600"]


class InsideTest(ServicesMixin, unittest.TestCase):
    """In one container."""

    box = Container(
        image="redis",
        entrypoint=SLEEP,
        files={
            "/etc/secret": File(b"token", mode=0o640, owner="redis:daemon"),
            "/etc/mine": File(b"#!/bin/sh\necho ran", owner="redis"),
            "/etc/plain": b"plain",
        },
        tmpfs={"/scratch": "size=16m,exec,mode=0770", "/run": "size=1m,noexec"},
    )

    def test_a_command_has_user_folder_variables_and_input(self) -> None:
        """What it writes comes apart, and together in order; text goes in as UTF-8."""
        argv = ["sh", "-c", 'id -un; pwd; echo "$A"; cat; echo wrong >&2; exit 3']
        ran = self.box.exec(argv, user="redis", workdir="/etc", env={"A": "1"}, stdin="é\n")
        self.assertEqual((3, "redis\n/etc\n1\né\n"), (ran.exit_code, ran.stdout))
        self.assertEqual(("wrong\n", b"wrong\n"), (ran.stderr, ran.stderr_bytes))
        self.assertEqual(sorted(ran.output), sorted(ran.stdout + ran.stderr))
        self.assertEqual("4711\n", self.box.exec(["id", "-u"], user=4711).stdout)

    def test_what_a_command_cannot_have_is_told(self) -> None:
        """Before anything is run."""
        for name, value in (("user", "a b"), ("workdir", "etc"), ("env", {"A": 1}), ("stdin", 5)):
            with self.subTest(name), self.assertRaisesRegex(DeclarationError, rf"exec\({name}="):
                self.box.exec(["true"], **{name: value})  # type: ignore[arg-type]

    def test_files_have_mode_owner_and_the_present_date(self) -> None:
        """As declared: names are the container's, a user without a group has that user's own."""
        for path, expected in (
            ("/etc/secret", "640 redis:daemon"),
            ("/etc/mine", "755 redis:redis"),
            ("/etc/plain", "644 root:root"),
        ):
            mode, owner, date = self.box.exec(["stat", "-c", "%a %U:%G %Y", path]).stdout.split()
            with self.subTest(path):
                self.assertEqual(expected, f"{mode} {owner}")
                self.assertLess(abs(time.time() - int(date)), 3600)

    def test_tmpfs_has_the_options_of_docker(self) -> None:
        """Programs run in it with ``exec``, and not without; its mode is as given."""
        self.assertEqual("770 0", self._stat("/scratch"))
        for folder, expected in (("/scratch", 0), ("/run", 126)):
            self.box.exec(["cp", "/etc/mine", folder], user=0)
            with self.subTest(folder):
                self.assertEqual(expected, self.box.exec([f"{folder}/mine"], user=0).exit_code)

    def _stat(self, path: str) -> str:
        return self.box.exec(["stat", "-c", "%a %u", path]).stdout.strip()

    def test_what_is_written_is_read(self) -> None:
        """On the disk and in memory, by a link too, over what was there; bytes are kept."""
        for path in ("/new/folder/file", "/scratch/file", "/var/run/file"):
            with self.subTest(path):
                self.box.write_file(path, "first, and longer")
                self.box.write_file(path, b"\xff\x00\n", mode=0o600, owner="4711:4712")
                self.assertEqual(b"\xff\x00\n", self.box.read_file(path))
                self.assertEqual(b"\xff\x00\n", self.box.exec(["cat", path], user=0).stdout_bytes)
                self.assertEqual("600 4711", self._stat(path))
        self.assertEqual(b"root", self.box.read_file("/etc/../etc/passwd")[:4])

    def test_what_is_no_file_is_told(self) -> None:
        """Nothing, a folder, or a place where none can be; on the disk and in memory."""
        for path in ("/nowhere/file", "/scratch/nothing"):
            with self.subTest(path), self.assertRaisesRegex(ServiceError, f"no file {path}"):
                self.box.read_file(path)
        self.box.exec(["mkdir", "/scratch/folder"], user=0)
        for path in ("/etc", "/scratch/folder"):
            with self.subTest(path), self.assertRaisesRegex(ServiceError, "is a folder"):
                self.box.read_file(path)
            with self.subTest(path), self.assertRaisesRegex(ServiceError, "cannot be written"):
                self.box.write_file(path, "over a folder")
        self.assertIn("passwd", self.box.exec(["ls", "/etc"]).stdout, "it was written over")
        with self.assertRaisesRegex(ServiceError, "called 'nobody-here'"):
            self.box.write_file("/etc/x", "", owner="nobody-here")
        with self.assertRaisesRegex(DeclarationError, "absolute path of a file"):
            self.box.read_file("etc/passwd")


class HiddenTest(LeakCheckedTestCase):
    """A file that the server would not see is refused."""

    def test_a_file_in_memory_is_refused_when_it_is_declared(self) -> None:
        """What is mounted at the start is empty then."""
        for path in ("/scratch/deep/file", "/dev/shm/file", "/scratch/../scratch/x"):
            with self.subTest(path), self.assertRaisesRegex(DeclarationError, "would hide it"):
                Container(image="redis", files={path: b""}, tmpfs={"/scratch": "1m"})
        for size in ("size=much", "1m,exec", "bind", "mode=9", ""):
            with self.subTest(size), self.assertRaisesRegex(DeclarationError, "mount options"):
                Container(image="redis", tmpfs={"/scratch": size})
        for mode in (0o10000, 600, 755):  # the last two were meant to be octal
            with self.subTest(mode), self.assertRaisesRegex(DeclarationError, r"File\(mode="):
                File(b"", mode=mode)
        with self.assertRaisesRegex(DeclarationError, r"File\(owner="):
            File(b"", owner="a b")

    def test_a_file_that_is_not_there(self) -> None:
        """The error names the attribute, and where it was looked for."""
        box = Container(image="redis", entrypoint=SLEEP, files={"/x": "no-such.conf"})
        words = f"box: Container(files=…) cannot read '{Path.cwd() / 'no-such.conf'}': No such file"
        self.assert_cannot_start("DeclarationError", words, box=box)

    def test_a_link_into_memory_is_seen_at_the_start(self) -> None:
        """Only the image tells where it leads."""
        hidden = {"files": {"/var/run/x": b""}, "tmpfs": {"/run": "1m"}}
        box = Container(image="redis", entrypoint=SLEEP, **hidden)  # type: ignore[arg-type]
        self.assert_cannot_start("DeclarationError", "would hide it", box=box)
