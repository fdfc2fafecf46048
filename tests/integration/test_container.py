"""`Container`: every option, seen from inside a real one; images made from a Dockerfile."""

import os
import shutil
import socket
import tempfile
import unittest
from pathlib import Path
from typing import ClassVar

from orchestrator import Build, Container, ServicesMixin
from orchestrator.probes import Call, LogLine
from tests.support.classes import LeakCheckedTestCase

SLEEP = ["sleep", "600"]
# The images here have Perl, whichever distribution they come from has it or not.
UDP_ECHO = """
use IO::Socket::INET;
my $server = IO::Socket::INET->new(LocalPort => 5300, Proto => 'udp') or die $!;
while ($server->recv(my $message, 512)) { $server->send("echo $message"); }
"""
# Where the kernel tells a container its limits: control groups version 2, else version 1.
LIMITS = (
    "cd /sys/fs/cgroup; cat memory.max cpu.max 2>/dev/null || "
    "cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us"
)
FORKS = """
for (1 .. 70) {
    defined(my $child = fork) or die "$!\n";
    if (!$child) { close STDOUT; close STDERR; sleep 9; exit; }
}
"""

DOCKERFILE = """
FROM redis AS base
ARG WHO=world
COPY greeting /greeting
ENV WHO=$WHO
ENTRYPOINT ["sh", "-c", "echo $(cat /greeting) $WHO; exec sleep 600"]
"""


def asks(box: Container) -> bytes:
    """A datagram from the host, and its answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.5)
        client.connect((box.host, box.port_of("5300/udp")))
        client.send(b"hello")
        return client.recv(512)


class ContainerTest(ServicesMixin, unittest.TestCase):
    """What is declared is what runs."""

    folder: ClassVar[Path] = Path(tempfile.gettempdir()) / f"orchestrator-mounted-{os.getpid()}"

    box = Container(
        image="redis",
        entrypoint=["sh", "-c", 'echo "$GREETING $1"; cat /etc/one /etc/two; sleep 600', "name"],
        command=["world"],
        env={"GREETING": "hello"},
        files={"/etc/one": b"bytes, ", "/etc/two": folder / "here"},
        user="4711:4712",
        mounts={"/data/in": folder},
        allow=[folder],
        memory="64m",
        cpus=0.5,
        pids=50,
        shm_size="32m",
        tmpfs={"/scratch": "16m"},
        probe=LogLine("^bytes, from a file$"),
    )
    plain = Container(image="redis", entrypoint=SLEEP, user="redis")
    udp = Container(
        image="redis",
        entrypoint=["perl", "-e", UDP_ECHO],
        ports=["5300/udp", 5300],
        probe=Call(asks),
    )

    @classmethod
    def setUpClass(cls) -> None:
        """Write what is copied and mounted."""
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.folder.mkdir()
        (cls.folder / "here").write_text("from a file\n")
        super().setUpClass()

    def test_what_it_starts_with_is_declared(self) -> None:
        """The entry point gets command and environment; bytes and a file are there before it."""
        self.assertEqual("hello world\nbytes, from a file\n", self.box.logs())

    def test_it_runs_as_the_declared_user(self) -> None:
        """Also under a number that no user of the image has."""
        self.assertEqual("redis\n", self.plain.exec(["id", "-un"]).output)
        self.assertRegex(self.box.exec(["id"]).output, r"^uid=4711\S* gid=4712")

    def test_a_udp_port_is_published(self) -> None:
        """A datagram from the host is answered; TCP and UDP ports are told apart."""
        self.assertEqual(b"echo hello", asks(self.udp))
        self.assertEqual(self.udp.port, self.udp.port_of("5300/udp"))
        self.assertEqual(f"udp://127.0.0.1:{self.udp.port}", self.udp.url)
        self.assertEqual(2, len(self.udp.running.ports))

    def test_a_folder_is_mounted_read_only(self) -> None:
        """What the host writes is seen; what the container would write is refused."""
        self.assertEqual("from a file\n", self.box.exec(["cat", "/data/in/here"]).output)
        refused = self.box.exec(["touch", "/data/in/new"])
        self.assertIn("Read-only file system", refused.output)

    def test_limits_are_in_force(self) -> None:
        """As the kernel tells them; the defaults are larger than Docker's, or there at all."""
        for box, pids, shared in ((self.plain, 4096, 256), (self.box, 50, 32)):
            limit = "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max"
            self.assertEqual(f"{pids}\n", box.exec(["sh", "-c", limit]).output)
            size = box.exec(["df", "--output=size", "/dev/shm"]).output
            self.assertEqual(shared << 10, int(size.split()[1]))
        told = self.box.exec(["sh", "-c", LIMITS]).output.split()
        memory, quota, period = map(int, told)
        self.assertEqual((64 << 20, 0.5), (memory, quota / period))
        full = self.box.exec(["sh", "-c", "head -c 17m /dev/zero > /scratch/large"])
        self.assertIn("No space left", full.output)
        result = self.box.exec(["perl", "-e", FORKS])
        self.assertIn("Resource temporarily unavailable", result.output)


class BuildTest(ServicesMixin, unittest.TestCase):
    """A folder becomes an image that stands on locked ones."""

    root: ClassVar[Path] = Path(tempfile.gettempdir()) / f"orchestrator-build-{os.getpid()}"

    box = Container(build=root / "box", probe=LogLine("^hello world$"))
    copy = Container(build=root / "copy", probe=LogLine("^hello world$"))
    other = Container(
        build=Build(folder=root / "box", dockerfile="Other", args={"WHO": "you"}, target="base"),
        probe=LogLine("^hello you$"),
    )

    @classmethod
    def setUpClass(cls) -> None:
        """Write two folders: a copy has more files, which are left out."""
        cls.addClassCleanup(shutil.rmtree, cls.root)
        box = cls.root / "box"
        box.mkdir(parents=True)
        for name in ("Dockerfile", "Other"):
            (box / name).write_text(DOCKERFILE)
        (box / "greeting").write_text("hello")
        (box / ".dockerignore").write_text("# remark\n*.log\n")
        shutil.copytree(box, cls.root / "copy")
        (cls.root / "copy" / "noise.log").write_text("noise")
        super().setUpClass()

    def test_the_same_content_is_one_image(self) -> None:
        """Whatever folder it is in, without what is ignored; with other arguments another."""
        image = str(self.box.info()["image"])
        self.assertRegex(image, "^orchestrator/built:")
        self.assertEqual(image, self.copy.info()["image"])
        self.assertNotEqual(image, str(self.other.info()["image"]))


class BrokenTest(LeakCheckedTestCase):
    """Each a container that cannot start."""

    def test_a_command_that_cannot_be_run_is_told_with_its_service(self) -> None:
        """The daemon knows ids only; which of several services it was about is in the error."""
        box = Container(image="redis", entrypoint=["no-such-program"])
        told = self.assert_cannot_start("EngineError", web_server=box)
        self.assertRegex(told, r"web_server: .*start container web_server: .*no-such-program")

    def test_a_missing_folder_is_not_made(self) -> None:
        """A typing error in a path is an error, not an empty folder that root owns."""
        with tempfile.TemporaryDirectory() as folder:
            missing = Path(folder) / "missing"
            box = Container(
                image="redis", entrypoint=SLEEP, mounts={"/in": missing}, allow=[folder]
            )
            self.assert_cannot_start("EngineError", str(missing), box=box)
            self.assertFalse(missing.exists())

    def test_what_cannot_be_built_is_told(self) -> None:
        """Its last lines; a base that is not locked; a Dockerfile that is not there."""
        for dockerfile, *told in (
            ("FROM redis\nRUN echo so far so good; exit 7\n", "7", "so far so good"),
            ("FROM nginx:1.27\n", "ImageNotLockedError", "nginx:1.27"),
            ("", "DeclarationError", "/Other"),
        ):
            with self.subTest(told), tempfile.TemporaryDirectory() as folder:
                if dockerfile:
                    (Path(folder) / "Other").write_text(dockerfile)
                box = Container(build=Build(folder=folder, dockerfile="Other"))
                self.assert_cannot_start(*told, box=box)
