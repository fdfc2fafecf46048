"""`Container`: every option, seen from inside a real one."""

from __future__ import annotations

import socket
import tempfile
import unittest
from pathlib import Path
from typing import ClassVar

from orchestrator import Container, ServicesMixin
from orchestrator.errors import DeclarationError
from orchestrator.probes import Call, LogLine
from tests.support.classes import LeakCheckedTestCase, problems, run_class

SLEEP = ["sleep", "60"]
# The images here have Perl, whichever distribution they come from has it or not.
UDP_ECHO = """
use IO::Socket::INET;
my $server = IO::Socket::INET->new(LocalPort => 5300, Proto => 'udp') or die $!;
$| = 1;
print "listening\n";
while ($server->recv(my $message, 512)) { $server->send("echo $message"); }
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

    folder: ClassVar[tempfile.TemporaryDirectory[str]] = tempfile.TemporaryDirectory()
    here: ClassVar[Path] = Path(folder.name) / "here"

    told = Container(
        image="redis",
        entrypoint=["sh", "-c", 'echo "$GREETING $1"; exec sleep 60', "name"],
        command=["world"],
        env={"GREETING": "hello"},
        probe=LogLine("^hello world$"),
    )
    filled = Container(
        image="redis",
        files={"/etc/one": b"bytes, ", "/etc/two": here},
        entrypoint=["sh", "-c", "cat /etc/one /etc/two; exec sleep 60"],
        probe=LogLine("^bytes, from a file$"),
    )
    named = Container(image="redis", entrypoint=SLEEP, user="redis")
    numbered = Container(image="redis", entrypoint=SLEEP, user="4711:4712")
    udp = Container(
        image="redis",
        entrypoint=["perl", "-e", UDP_ECHO],
        ports=["5300/udp", 5300],
        probe=Call(asks),
    )
    mounted = Container(
        image="redis", entrypoint=SLEEP, mounts={"/data/in": folder.name}, allow=[folder.name]
    )

    @classmethod
    def setUpClass(cls) -> None:
        """Write what is copied and mounted."""
        cls.addClassCleanup(cls.folder.cleanup)
        cls.here.write_text("from a file\n")
        super().setUpClass()

    def test_env_command_and_entrypoint_are_the_declared_ones(self) -> None:
        """The entry point gets the command as its arguments, and the environment."""
        self.assertEqual("hello world\n", self.told.logs())

    def test_files_are_there_when_it_starts(self) -> None:
        """Bytes and a file of this machine are in place before the first process runs."""
        self.assertEqual("bytes, from a file\n", self.filled.logs())

    def test_it_runs_as_the_declared_user(self) -> None:
        """Also under a number that no user of the image has."""
        self.assertEqual("redis\n", self.named.exec(["id", "-un"]).output)
        self.assertEqual("4711\n", self.numbered.exec(["id", "-u"]).output)
        self.assertEqual("4712\n", self.numbered.exec(["id", "-g"]).output)

    def test_a_udp_port_is_published(self) -> None:
        """A datagram from the host is answered; TCP and UDP ports are told apart."""
        self.assertEqual(b"echo hello", asks(self.udp))
        self.assertEqual(self.udp.port, self.udp.port_of("5300/udp"))
        self.assertEqual(f"udp://127.0.0.1:{self.udp.port}", self.udp.url)
        self.assertEqual(2, len(self.udp.running.ports))

    def test_what_cannot_be_asked_is_told(self) -> None:
        """A command that is a text, and a port of a container that publishes none."""
        with self.assertRaisesRegex(DeclarationError, "expected a list of arguments"):
            self.named.exec("ls /")
        for name in ("port", "url", "internal_url"):
            with self.subTest(name), self.assertRaisesRegex(DeclarationError, "ports="):
                getattr(self.named, name)

    def test_a_folder_is_mounted_read_only(self) -> None:
        """What the host writes is seen; what the container would write is refused."""
        self.assertEqual("from a file\n", self.mounted.exec(["cat", "/data/in/here"]).output)
        refused = self.mounted.exec(["touch", "/data/in/new"])
        self.assertIn("Read-only file system", refused.output)


class BrokenTest(LeakCheckedTestCase):
    """Each a container that cannot start."""

    def test_a_command_that_cannot_be_run_is_told_with_its_service(self) -> None:
        """The daemon knows ids only; which of several services it was about is in the error."""

        class Unknown(ServicesMixin, unittest.TestCase):
            web_server = Container(image="redis", entrypoint=["no-such-program"])

            def test_it(self) -> None:
                self.fail("it started")

        told = problems(run_class(Unknown))
        self.assertRegex(told, r"start container orchestrator-\S+-web_server: .*no-such-program")

    def test_a_missing_folder_is_not_made(self) -> None:
        """A typing error in a path is an error, not an empty folder that root owns."""
        with tempfile.TemporaryDirectory() as folder:
            missing = Path(folder) / "missing"

            class Missing(ServicesMixin, unittest.TestCase):
                box = Container(
                    image="redis", entrypoint=SLEEP, mounts={"/in": missing}, allow=[folder]
                )

                def test_it(self) -> None:
                    """Never reached."""

            self.assert_error(Missing, "EngineError", str(missing))
            self.assertFalse(missing.exists())


class LimitsTest(ServicesMixin, unittest.TestCase):
    """What every service may use at most."""

    box = Container(
        image="redis", entrypoint=SLEEP, pids=50, shm_size="32m", tmpfs={"/scratch": "16m"}
    )
    plain = Container(image="redis", entrypoint=SLEEP)

    def test_limits_are_in_force(self) -> None:
        """Processes, shared memory and file systems in memory, as the kernel tells them.

        The defaults are larger than Docker's, or there at all.
        """
        self.assertEqual(4096, pids(self.plain))
        self.assertEqual(256 << 10, kilobytes(self.plain, "/dev/shm"))
        self.assertEqual(50, pids(self.box))
        self.assertEqual(32 << 10, kilobytes(self.box, "/dev/shm"))
        self.assertEqual(16 << 10, kilobytes(self.box, "/scratch"))
        full = self.box.exec(["sh", "-c", "head -c 17m /dev/zero > /scratch/large"])
        self.assertIn("No space left", full.output)

    def test_a_fork_bomb_ends_at_the_limit(self) -> None:
        """The container cannot start more processes; the machine does not notice."""
        bomb = "for i in $(seq 70); do sleep 9 & done; wait"
        result = self.box.exec(["bash", "-c", f"timeout 2 bash -c '{bomb}'"])
        self.assertIn("Resource temporarily unavailable", result.output)


def pids(box: Container) -> int:
    """The limit of processes, from either version of control groups."""
    command = "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max"
    return int(box.exec(["sh", "-c", command]).output)


def kilobytes(box: Container, path: str) -> int:
    """The size of the file system at a path."""
    return int(box.exec(["sh", "-c", f"df -k {path} | tail -1"]).output.split()[1])
