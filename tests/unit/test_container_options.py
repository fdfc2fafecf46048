"""Options of `Container`, and the limits every service has: what is refused, and when."""

from __future__ import annotations

import os
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from orchestrator import Build, Container, Redis
from orchestrator.errors import DeclarationError
from orchestrator.services.mounts import check_mounts

BAD: list[dict[str, Any]] = [
    {"build": ""},
    {"build": 3},
    {"image": "a", "build": "b"},
    {"image": "a", "entrypoint": "sleep 3"},
    {"image": "a", "user": "two words"},
    {"image": "a", "user": True},
    {"image": "a", "pids": 0},
    {"image": "a", "pids": True},
    {"image": "a", "shm_size": "some"},
    {"image": "a", "shm_size": 0},
    {"image": "a", "tmpfs": ["/tmp"]},
    {"image": "a", "tmpfs": {"tmp": "1m"}},
    {"image": "a", "tmpfs": {"/tmp": "lots"}},
    {"image": "a", "log_to": 1},
    {"image": "a", "capabilities": "NET_ADMIN"},
    {"image": "a", "capabilities": ["net admin"]},
    {"image": "a", "allow": ["everything"]},
    {"image": "a", "mounts": ["/data"]},
    {"image": "a", "mounts": {"data": "/srv/data"}},
    {"image": "a", "mounts": {"/data": ""}},
    {"image": "a", "mounts": {"/data": "/srv/a:rw"}},
]


class ContainerOptionsTest(unittest.TestCase):
    """Bad values are told when the class is made."""

    def test_a_bad_value_is_an_error_that_names_the_option(self) -> None:
        """Every option has values that cannot work."""
        for options in BAD:
            with self.subTest(str(options)), self.assertRaises(DeclarationError) as raised:
                Container(**options)
            self.assertIn(f"{[*options][-1]}=", str(raised.exception))

    def test_a_build_is_checked_as_well(self) -> None:
        """Its parts have types too."""
        for wrong in (
            {"folder": ""},
            {"folder": "a", "dockerfile": "/x"},
            {"folder": "a", "args": 1},
        ):
            with self.subTest(str(wrong)), self.assertRaisesRegex(DeclarationError, "Build"):
                Build(**wrong)

    def test_limits_are_options_of_every_service(self) -> None:
        """Redis has them, too."""
        with self.assertRaisesRegex(DeclarationError, "Redis.pids=-1."):
            Redis(pids=-1)

    def test_there_is_no_privileged_container(self) -> None:
        """The option that other tools have does not exist."""
        with self.assertRaisesRegex(DeclarationError, "no option 'privileged'"):
            Container(image="a", privileged=True)  # type: ignore[call-arg]  # the point of the test


class MountsTest(unittest.TestCase):
    """What of this machine a container may not see, unless the test asks for it by name."""

    def refused(self, source: str | Path, word: str) -> None:
        """Check that a mount is refused, and let through under its name."""
        with self.assertRaisesRegex(DeclarationError, rf"allow=\['{word}'\]"):
            Container(image="a", mounts={"/in": source})
        Container(image="a", mounts={"/in": source}, allow=[word])

    def test_the_engines_socket_is_refused(self) -> None:
        """The socket makes whoever has it root; so do the folders it lies in."""
        for source in ("/var/run/docker.sock", "/run/docker.sock", "/run", "/var/run/", "/var"):
            with self.subTest(source):
                self.refused(source, "docker-socket")

    def test_home_folders_are_refused(self) -> None:
        """The user's, the folder of all, and what hides in one."""
        with mock.patch.dict(os.environ, {"HOME": "/home/ann"}):
            for source in ("/home/ann", "/home/ann/.ssh", "/home", "/root", "/home/ann/x/.."):
                with self.subTest(source):
                    self.refused(source, "home")

    def test_a_project_in_a_home_folder_is_fine(self) -> None:
        """That is where projects are."""
        with mock.patch.dict(os.environ, {"HOME": "/home/ann"}):
            Container(image="a", mounts={"/in": "/home/ann/shop/testdata"})

    def test_the_root_folder_is_refused(self) -> None:
        """However it is written."""
        for source in ("/", "//", "/srv/.."):
            with self.subTest(source):
                self.refused(source, "root")

    def test_a_link_is_followed_when_the_class_starts(self) -> None:
        """An innocent name does not get a folder through."""
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / "data"
            link.symlink_to("/")
            box = Container(image="a", mounts={"/in": link})
            with self.assertRaisesRegex(DeclarationError, "root folder"):
                box.server_mounts()

    def test_another_word_does_not_let_it_through(self) -> None:
        """Each is asked for by its own name."""
        with self.assertRaises(DeclarationError):
            check_mounts({"/in": "/"}, allow=["home", "docker-socket"], follow=True)
