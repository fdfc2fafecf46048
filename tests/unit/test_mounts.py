"""What of this machine a container may see."""

import contextlib
import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from orchestrator import Container
from orchestrator.errors import DeclarationError


class MountsTest(unittest.TestCase):
    """What of this machine a container may see: the project, and what the test names."""

    def setUp(self) -> None:
        """Work in a project of one's own, in a user's home."""
        self.home = Path(self.enterContext(tempfile.TemporaryDirectory())).resolve()
        self.project = self.home / "shop"
        (self.project / "tests").mkdir(parents=True)
        (self.project / "images.lock").touch()
        self.enterContext(mock.patch.dict(os.environ, {"HOME": str(self.home)}))
        self.enterContext(contextlib.chdir(self.project / "tests"))

    def refused(self, source: str | Path, word: str) -> None:
        """Check that a mount is refused, and let through when it is named as the error says."""
        with self.assertRaisesRegex(DeclarationError, rf"allow=\[{word!r}\]"):
            Container(image="a", mounts={"/in": source})
        Container(image="a", mounts={"/in": source}, allow=[word])

    def test_the_project_may_be_seen(self) -> None:
        """From its folder downwards, whatever the working directory in it is."""
        for source in (self.project, self.project / "data" / "not yet", "..", "data"):
            box = Container(image="a", mounts={"/in": source})
            expected = {"/in": os.path.realpath(self.project / "tests" / source)}
            self.assertEqual(expected, box.server_mounts())

    def test_the_rest_of_the_machine_may_not(self) -> None:
        """What is outside is named, what is dangerous by a word, however it is written."""
        other = f"{self.project}/../other"
        for source, word in (
            *((path, path) for path in ("/run/docker", "/proc", "/dev/sda", "/etc/shadow")),
            (self.home / "shopping", str(self.home / "shopping")),
            (other, os.path.realpath(other)),
            ("/var/run/docker.sock", "docker-socket"),
            (self.project / "docker.sock", "docker-socket"),
            *((home, "home") for home in (self.home, "/home", "/root")),
            *((root, "root") for root in ("/", "//", "/srv/..", "/proc/self/root")),
        ):
            with self.subTest(source):
                self.refused(source, word)

    def test_links_are_followed(self) -> None:
        """An innocent name gets nothing through, also where it leads elsewhere only later."""
        link = self.project / "data"
        box = Container(image="a", mounts={"/in": link})
        link.symlink_to("/etc")
        with self.assertRaisesRegex(DeclarationError, r"which is '/etc'.*allow=\['/etc'\]"):
            box.server_mounts()
        with self.assertRaisesRegex(DeclarationError, "which is '/etc'"):
            Container(image="a", mounts={"/in": link})

    def test_another_name_does_not_let_it_through(self) -> None:
        """Each is asked for by its own."""
        for source, allow in (
            ("/", ["home", "docker-socket"]),
            ("/run/docker.sock", ["root"]),
            ("/srv/data", ["/srv/dat", "/srv/data/below"]),
        ):
            with self.subTest(source), self.assertRaises(DeclarationError):
                Container(image="a", mounts={"/in": source}, allow=allow)

    def test_what_is_no_project(self) -> None:
        """A home folder, the system's, and those that everybody shares, in spite of a lock file."""
        (self.home / "images.lock").touch()
        for folder in (self.home, "/", "/etc", "/tmp", "/proc/self"):
            with self.subTest(folder), contextlib.chdir(folder):
                inside = Path(folder).resolve() / "x"
                with self.assertRaisesRegex(DeclarationError, "is in no project's folder"):
                    Container(image="a", mounts={"/in": inside})

    def test_what_is_a_project_with_a_mark_only(self) -> None:
        """A folder of installed programs or a hidden one; a checkout of CI's in it is."""
        hidden = self.home / ".ssh"
        hidden.mkdir()
        checkout = Path(self.enterContext(tempfile.TemporaryDirectory(dir="/var/lib")))
        for folder in ("/usr/local", "/usr/lib/ssl", "/var/lib", hidden, checkout):
            with self.subTest(folder), contextlib.chdir(folder):
                inside = Path(folder).resolve() / "x"
                self.refused(inside, str(inside))
        for folder in (hidden, checkout):
            (folder / "pyproject.toml").touch()
            with contextlib.chdir(folder):
                Container(image="a", mounts={"/in": folder / "x"})

    def test_a_project_without_a_lock_file(self) -> None:
        """Its repository counts, else the working directory."""
        (self.project / "images.lock").unlink()
        Container(image="a", mounts={"/in": self.project / "tests"})
        self.refused(self.project, str(self.project))
        (self.project / ".git").mkdir()
        Container(image="a", mounts={"/in": self.project})

    def test_what_allow_may_be(self) -> None:
        """A list of words and absolute paths."""
        for allow in ("home", ["srv"], [1]):
            with self.subTest(allow), self.assertRaisesRegex(DeclarationError, "allow="):
                Container(image="a", allow=allow)  # type: ignore[arg-type]  # the point
