"""`Compose`: the services of a Compose file, started by the real engine."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import textwrap
import unittest
from pathlib import Path

from orchestrator import Compose, Redis, ServicesMixin
from orchestrator.errors import ServiceNotRunningError
from tests.support.classes import LeakCheckedTestCase
from tests.support.processes import ProcessTestCase

SHOP = """
name: shop
x-common: &common
  image: redis
  entrypoint: [sh, -c]
  restart: always
services:
  cache:
    image: redis
    ports: ["6379:6379"]
    healthcheck:
      test: [CMD, redis-cli, ping]
      interval: 10s
  web-app:
    <<: *common
    command: ["cat /etc/greeting; echo $$WHO $$WHERE; redis-cli -h cache ping; exec sleep 600"]
    healthcheck:
      test: pgrep sleep || ls -l /proc/1/exe | grep sleep
    environment:
      WHO: ${NOBODY:-world}
    env_file: web.env
    depends_on:
      cache: {condition: service_healthy}
    volumes:
      - ./greeting:/etc/greeting:ro
      - data:/data
    tmpfs: /scratch:size=16m
    mem_limit: 64m
    pids_limit: 100
  tools:
    <<: *common
    command: ["exec sleep 600"]
    profiles: [tools]
volumes:
  data: {}
"""


class ComposeTest(LeakCheckedTestCase):
    """What runs is what the file says."""

    def setUp(self) -> None:
        """Work in a folder with a Compose file and what it refers to."""
        super().setUp()
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(contextlib.chdir(self.folder))
        for name, text in (
            ("compose.yaml", SHOP),
            ("web.env", "# where\nWHERE='wide web'\n"),
            ("greeting", "hello\n"),
        ):
            (self.folder / name).write_text(textwrap.dedent(text))

    def test_services_run_as_the_file_says_beside_others(self) -> None:
        """Command, environment, files, limits, order; names and dependencies go across."""

        class Shop(ServicesMixin, unittest.TestCase):
            stack = Compose(".")
            store = Redis()
            late = Redis(depends_on=["web-app"])

            def test_it(self) -> None:
                web = self.stack["web-app"]
                self.assertEqual(["cache", "web-app"], list(self.stack))
                self.assertEqual("hello\nworld wide web\nPONG\n", web.logs())
                limit = "cat /sys/fs/cgroup/pids/pids.max || cat /sys/fs/cgroup/pids.max"
                self.assertIn("100\n", web.exec(["sh", "-c", limit]).output)
                self.assertIn("tmpfs", web.exec(["df", "/scratch"]).output)
                self.assertIn("NOAUTH", web.exec(["redis-cli", "-h", "store", "ping"]).output)
                self.assertTrue(self.late.client.ping())

            def test_ports_are_free_ones_on_loopback(self) -> None:
                cache = self.stack["cache"]
                with socket.create_connection((cache.host, cache.port_of(6379))) as client:
                    client.sendall(b"PING\r\n")
                    self.assertEqual(b"+PONG\r\n", client.recv(100))

        with self.assertRaisesRegex(ServiceNotRunningError, "service 'cache' is not running"):
            _ = Shop.stack["cache"].port
        self.assert_passes(Shop)

    def test_a_class_that_cannot_be_is_told_when_it_starts(self) -> None:
        """A declaration reads no file; a name is a host name, and there is one of each."""

        class Missing(ServicesMixin, unittest.TestCase):
            stack = Compose("none.yaml")

            def test_it(self) -> None:
                """Never reached."""

        class Twice(Missing):
            stack = Compose(".")
            cache = Redis()

        self.assert_error(Missing, "DeclarationError", "none.yaml cannot be read")
        self.assert_error(Twice, "DeclarationError", "two services are called 'cache'")


class ComposeRunnerTest(ProcessTestCase):
    """Compose under the parallel runner."""

    def test_a_broken_file_is_one_classs_error(self) -> None:
        """The other classes run."""
        self.write("broken.yaml", "services: {web: {image: redis, privileged: true}}\n")
        self.write(
            "test_it.py",
            """
            import unittest
            from orchestrator import Compose, ServicesMixin

            class GoodTest(unittest.TestCase):
                def test_it(self): pass

            class BrokenTest(ServicesMixin, unittest.TestCase):
                stack = Compose("broken.yaml")
                def test_it(self): pass
            """,
        )
        status, output = self.run_python("-m", "orchestrator", "test", "-j", "2", "test_it")
        self.assertEqual(1, status, output)
        self.assertIn("'privileged' is not supported", output)
        self.assertIn("Ran 1 test", output)
