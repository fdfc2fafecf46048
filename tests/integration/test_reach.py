"""Daemons and test processes in other places than beside each other on one machine."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import subprocess
import sys
import threading
import unittest
import uuid
from typing import TYPE_CHECKING

from orchestrator.engine import find_endpoint
from orchestrator.images import find_lock
from orchestrator.settings import Settings
from tests.support.processes import DEADLINE, ProcessTestCase

if TYPE_CHECKING:
    from collections.abc import Iterator

USES = """
    import unittest
    from orchestrator import Redis, ServicesMixin

    class UsesTest(ServicesMixin, unittest.TestCase):
        cache = Redis()

        def test_it(self):
            self.assertTrue(self.cache.client.ping())
            print("reached at", self.cache.host)
"""


class _Forward(socketserver.BaseRequestHandler):
    """One connection, handed through to the daemon's socket."""

    def handle(self) -> None:
        """Pump both ways until both ends are done."""
        with socket.socket(socket.AF_UNIX) as daemon:
            daemon.connect(find_endpoint().socket or "")
            there = threading.Thread(target=_pump, args=(self.request, daemon))
            there.start()
            _pump(daemon, self.request)
            there.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class _Server6(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6


@contextlib.contextmanager
def daemon_on_tcp(address: str = "127.0.0.1") -> Iterator[int]:
    """The real daemon, reached through a TCP port of the loopback."""
    kind = _Server6 if ":" in address else socketserver.ThreadingTCPServer
    with kind((address, 0), _Forward) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@unittest.skipUnless(find_endpoint().socket, "the daemon is not on this machine's socket")
class ReachTest(ProcessTestCase):
    """`host` and `port` connect wherever daemon and test process are."""

    def test_ipv6_is_used_from_the_daemon_to_the_services(self) -> None:
        """DOCKER_HOST and ORCHESTRATOR_HOST may be IPv6 addresses; URLs have them in brackets."""
        self.write(
            "test_uses.py",
            """
            import unittest, psycopg, redis
            from sqlalchemy import text
            from orchestrator import Kafka, Postgres, Redis, ServicesMixin

            class UsesTest(ServicesMixin, unittest.TestCase):
                cache = Redis()
                db = Postgres()
                events = Kafka()

                def test_cache(self):
                    self.assertTrue(self.cache.client.ping())
                    with redis.Redis.from_url(self.cache.url) as client:
                        self.assertTrue(client.ping())

                def test_db(self):
                    with self.db.engine.connect() as connection:
                        self.assertEqual(1, connection.scalar(text("select 1")))
                    with psycopg.connect(self.db.dsn) as connection:
                        self.assertEqual("::1", connection.info.hostaddr)

                def test_events(self):
                    topic = self.events.topic("orders")
                    with self.events.producer() as producer:
                        producer.send(topic, b"paid")
                    [record] = self.events.consume(topic, count=1, timeout=60)
            """,
        )
        with daemon_on_tcp("::1") as port:
            self.environ |= {"DOCKER_HOST": f"tcp://[::1]:{port}", "ORCHESTRATOR_HOST": "[::1]"}
            status, output = self.run_python("-m", "unittest", "test_uses")
            self.await_nothing_left()
        self.assertEqual(0, status, output)

    def test_a_published_port_that_is_out_of_reach_is_told_within_seconds(self) -> None:
        """Not at the deadline: where the daemon's ports are, only the user knows."""
        self.environ["ORCHESTRATOR_HOST"] = "127.0.0.2"  # ports are on 127.0.0.1
        status, output = self.run_python("-c", "from orchestrator import *; Redis().__enter__()")
        self.assertEqual(1, status, output)
        self.assertRegex(output, r"did not succeed in \d?\d\.\d s .* listens on port 6379 in its")
        self.assertIn("ORCHESTRATOR_HOST=127.0.0.2 may not be its machine", output)

    def test_a_test_process_in_a_container_beside_the_daemon_reaches_its_services(self) -> None:
        """Inside a container, with the daemon's socket mounted, ports are on the bridge."""
        self.write("test_uses.py", USES)
        redis = find_lock(Settings.from_environment()).entries["redis"].reference
        name = f"orchestrator-test-{uuid.uuid4().hex[:12]}"
        # This machine's own Python, seen from a container's network and process namespaces.
        inside = f"cd {self.folder} && exec {sys.executable} -m unittest test_uses"
        variables = {
            "container": "docker",
            "ORCHESTRATOR_RUN": self.run_id,
            "ORCHESTRATOR_IMAGES_LOCK": os.environ.get("ORCHESTRATOR_IMAGES_LOCK", ""),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        options = [word for key, value in variables.items() for word in ("-e", f"{key}={value}")]
        self.addCleanup(
            subprocess.run, ["docker", "rm", "--force", name], capture_output=True, check=False
        )
        run = ["docker", "run", "--rm", "--name", name, "--volume", "/:/host"]
        ran = subprocess.run(
            [*run, *options, redis.pinned, "chroot", "/host", "sh", "-c", inside],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        self.assertEqual(0, ran.returncode, ran.stdout + ran.stderr)
        self.assertNotIn("reached at 127.0.0.1", ran.stdout)
        self.assertIn("reached at ", ran.stdout)
