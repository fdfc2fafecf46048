"""`Container`: every option, seen from inside a real one."""

from __future__ import annotations

import socket
import tempfile
import unittest
from pathlib import Path

from orchestrator import Container, ServicesMixin
from orchestrator.errors import DeclarationError
from orchestrator.probes import Call, Exec, LogLine
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


class ContainerTest(LeakCheckedTestCase):
    """What is declared is what runs."""

    def test_env_command_and_entrypoint_are_the_declared_ones(self) -> None:
        """The entry point gets the command as its arguments, and the environment."""

        class Told(ServicesMixin, unittest.TestCase):
            box = Container(
                image="redis",
                entrypoint=["sh", "-c", 'echo "$GREETING $1"; exec sleep 60', "name"],
                command=["world"],
                env={"GREETING": "hello"},
                probe=LogLine("^hello world$"),
            )

            def test_it(self) -> None:
                self.assertEqual("hello world\n", self.box.logs())

        self.assert_passes(Told)

    def test_a_command_is_a_list(self) -> None:
        """A text would be run letter by letter."""

        class Typed(ServicesMixin, unittest.TestCase):
            box = Container(image="redis", entrypoint=SLEEP)

            def test_it(self) -> None:
                with self.assertRaisesRegex(DeclarationError, "expected a list of arguments"):
                    self.box.exec("ls /")

        self.assert_passes(Typed)

    def test_a_command_that_cannot_be_run_is_told_with_its_service(self) -> None:
        """The daemon knows ids only; which of several services it was about is in the error."""

        class Unknown(ServicesMixin, unittest.TestCase):
            web_server = Container(image="redis", entrypoint=["no-such-program"])

            def test_it(self) -> None:
                self.fail("it started")

        told = problems(run_class(Unknown))
        self.assertRegex(told, r"start container orchestrator-\S+-web_server: .*no-such-program")

    def test_files_are_there_when_it_starts(self) -> None:
        """Bytes and a file of this machine are in place before the first process runs."""
        with tempfile.NamedTemporaryFile() as here:
            Path(here.name).write_text("from a file\n")

            class Filled(ServicesMixin, unittest.TestCase):
                box = Container(
                    image="redis",
                    files={"/etc/one": b"bytes, ", "/etc/two": here.name},
                    entrypoint=["sh", "-c", "cat /etc/one /etc/two; exec sleep 60"],
                    probe=LogLine("^bytes, from a file$"),
                )

                def test_it(self) -> None:
                    self.assertEqual("bytes, from a file\n", self.box.logs())

            self.assert_passes(Filled)

    def test_it_runs_as_the_declared_user(self) -> None:
        """Also under a number that no user of the image has."""

        class Users(ServicesMixin, unittest.TestCase):
            named = Container(image="redis", entrypoint=SLEEP, user="redis")
            numbered = Container(image="redis", entrypoint=SLEEP, user="4711:4712")

            def test_it(self) -> None:
                self.assertEqual("redis\n", self.named.exec(["id", "-un"]).output)
                self.assertEqual("4711\n", self.numbered.exec(["id", "-u"]).output)
                self.assertEqual("4712\n", self.numbered.exec(["id", "-g"]).output)

        self.assert_passes(Users)

    def test_a_udp_port_is_published(self) -> None:
        """A datagram from the host is answered; TCP and UDP ports are told apart."""

        def asks(box: Container) -> bytes:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(0.5)
                client.connect((box.host, box.port_of("5300/udp")))
                client.send(b"hello")
                return client.recv(512)

        class Udp(ServicesMixin, unittest.TestCase):
            box = Container(
                image="redis",
                entrypoint=["perl", "-e", UDP_ECHO],
                ports=["5300/udp", 5300],
                probe=Call(asks),
            )

            def test_it(self) -> None:
                self.assertEqual(b"echo hello", asks(self.box))
                self.assertEqual(self.box.port, self.box.port_of("5300/udp"))
                self.assertEqual(f"udp://127.0.0.1:{self.box.port}", self.box.url)
                self.assertEqual(2, len(self.box.running.ports))

        self.assert_passes(Udp)

    def test_any_probe_decides_when_it_is_ready(self) -> None:
        """A command in the container, for one."""

        class Probed(ServicesMixin, unittest.TestCase):
            box = Container(
                image="redis",
                entrypoint=["sh", "-c", "sleep 0.3; touch /tmp/ready; exec sleep 60"],
                probe=Exec(["test", "-e", "/tmp/ready"]),
            )

            def test_it(self) -> None:
                self.assertEqual(0, self.box.exec(["test", "-e", "/tmp/ready"]).exit_code)

        self.assert_passes(Probed)

    def test_a_container_without_ports_says_so(self) -> None:
        """Who asks for its port is told what to declare."""

        class Portless(ServicesMixin, unittest.TestCase):
            box = Container(image="redis", entrypoint=SLEEP)

            def test_it(self) -> None:
                for name in ("port", "url", "internal_url"):
                    with self.subTest(name), self.assertRaisesRegex(DeclarationError, "ports="):
                        getattr(self.box, name)

        self.assert_passes(Portless)

    def test_a_folder_is_mounted_read_only(self) -> None:
        """What the host writes is seen; what the container would write is refused."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "seen").write_text("yes")

            class Mounted(ServicesMixin, unittest.TestCase):
                box = Container(
                    image="redis", entrypoint=SLEEP, mounts={"/data/in": folder}, allow=[folder]
                )

                def test_it(self) -> None:
                    self.assertEqual("yes", self.box.exec(["cat", "/data/in/seen"]).output)
                    refused = self.box.exec(["touch", "/data/in/new"])
                    self.assertIn("Read-only file system", refused.output)

            self.assert_passes(Mounted)

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


class LimitsTest(LeakCheckedTestCase):
    """What every service may use at most."""

    def test_limits_are_in_force(self) -> None:
        """Processes, shared memory and file systems in memory, as the kernel tells them."""

        class Limited(ServicesMixin, unittest.TestCase):
            box = Container(
                image="redis",
                entrypoint=SLEEP,
                pids=50,
                shm_size="32m",
                tmpfs={"/scratch": "16m"},
            )
            plain = Container(image="redis", entrypoint=SLEEP)

            def test_it(self) -> None:
                self.assertEqual(50, pids(self.box))
                self.assertEqual(32 << 10, kilobytes(self.box, "/dev/shm"))
                self.assertEqual(16 << 10, kilobytes(self.box, "/scratch"))
                full = self.box.exec(["sh", "-c", "head -c 17m /dev/zero > /scratch/large"])
                self.assertIn("No space left", full.output)

            def test_defaults(self) -> None:
                self.assertEqual(4096, pids(self.plain))
                self.assertEqual(256 << 10, kilobytes(self.plain, "/dev/shm"))

        self.assert_passes(Limited)

    def test_a_fork_bomb_ends_at_the_limit(self) -> None:
        """The container cannot start more processes; the machine does not notice."""

        class Bomb(ServicesMixin, unittest.TestCase):
            box = Container(image="redis", entrypoint=SLEEP, pids=20)

            def test_it(self) -> None:
                bomb = "for i in $(seq 40); do sleep 9 & done; wait"
                result = self.box.exec(["bash", "-c", f"timeout 2 bash -c '{bomb}'"])
                self.assertIn("Resource temporarily unavailable", result.output)

        self.assert_passes(Bomb)

    def test_a_service_that_wants_too_much_memory_is_told_as_oom(self) -> None:
        """Not as a mysterious exit code 137."""

        class Greedy(ServicesMixin, unittest.TestCase):
            box = Container(
                image="redis",
                memory="16m",
                entrypoint=["perl", "-e", "my $x = 'a' x (64 << 20); sleep 60"],
                probe=Exec(["false"]),
            )

            def test_it(self) -> None:
                """Never reached."""

        self.assert_error(Greedy, "ServiceExitedError", "killed for lack of memory (OOM)")


def pids(box: Container) -> int:
    """The limit of processes, from either version of control groups."""
    command = "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max"
    return int(box.exec(["sh", "-c", command]).output)


def kilobytes(box: Container, path: str) -> int:
    """The size of the file system at a path."""
    return int(box.exec(["sh", "-c", f"df -k {path} | tail -1"]).output.split()[1])
