"""`Compose`: the services of a Compose file, started by the real engine."""

from __future__ import annotations

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
    command: ["cat /etc/greeting; echo $$WHO $$WHERE; redis-cli -h cache ping; exec sleep 60"]
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
    command: ["exec sleep 60"]
    profiles: [tools]
volumes:
  data: {}
"""


class ComposeTest(LeakCheckedTestCase):
    """What runs is what the file says."""

    def setUp(self) -> None:
        """A folder with a Compose file and what it refers to."""
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.write("compose.yaml", SHOP)
        self.write("web.env", "# where\nWHERE='wide web'\n")
        self.write("greeting", "hello\n")

    def write(self, name: str, text: str) -> None:
        """Write one file of the project."""
        (self.folder / name).write_text(textwrap.dedent(text))

    def test_services_run_as_the_file_says(self) -> None:
        """Command, environment, files, limits, order, and names that are host names."""

        class Shop(ServicesMixin, unittest.TestCase):
            stack = Compose(self.folder, allow=[self.folder])

            def test_it(self) -> None:
                web = self.stack["web-app"]
                self.assertEqual(["cache", "web-app"], list(self.stack))
                self.assertEqual("hello\nworld wide web\nPONG\n", web.logs())
                limit = "cat /sys/fs/cgroup/pids/pids.max || cat /sys/fs/cgroup/pids.max"
                self.assertIn("100\n", web.exec(["sh", "-c", limit]).output)
                self.assertIn("tmpfs", web.exec(["df", "/scratch"]).output)

            def test_ports_are_free_ones_on_loopback(self) -> None:
                cache = self.stack["cache"]
                with socket.create_connection((cache.host, cache.port_of(6379))) as client:
                    client.sendall(b"PING\r\n")
                    self.assertEqual(b"+PONG\r\n", client.recv(100))

        self.assert_passes(Shop)

    def test_it_stands_beside_other_services(self) -> None:
        """They are one environment: names and dependencies go across."""
        self.write(
            "compose.yaml",
            """
            services:
              web:
                image: redis
                entrypoint: [sh, -c, "redis-cli -h store ping; exec sleep 60"]
            """,
        )

        class Beside(ServicesMixin, unittest.TestCase):
            stack = Compose(self.folder, allow=[self.folder])
            store = Redis()
            late = Redis(depends_on=["web"])

            def test_it(self) -> None:
                self.assertIn("web", self.stack)
                self.assertTrue(self.late.client.ping())
                asked = self.stack["web"].exec(["redis-cli", "-h", "store", "ping"])
                self.assertIn("NOAUTH", asked.output)

        self.assert_passes(Beside)

    def test_a_declaration_reads_no_file(self) -> None:
        """The file is read when the class starts; a missing one is the class's error."""

        class Missing(ServicesMixin, unittest.TestCase):
            stack = Compose(self.folder / "none.yaml")

            def test_it(self) -> None:
                """Never reached."""

        self.assert_error(Missing, "DeclarationError", "none.yaml cannot be read")

    def test_a_service_that_is_not_running_says_so(self) -> None:
        """Before the class has started, and after it."""

        class Later(ServicesMixin, unittest.TestCase):
            stack = Compose(self.folder, allow=[self.folder])

        with self.assertRaisesRegex(ServiceNotRunningError, "service 'cache' is not running"):
            _ = Later.stack["cache"].port

    def test_two_services_of_one_name_are_refused(self) -> None:
        """A name is a host name; there is one of each."""

        class Twice(ServicesMixin, unittest.TestCase):
            stack = Compose(self.folder, allow=[self.folder])
            cache = Redis()

            def test_it(self) -> None:
                """Never reached."""

        self.assert_error(Twice, "DeclarationError", "two services are called 'cache'")


class ComposeRunnerTest(ProcessTestCase):
    """Compose under the parallel runner."""

    def test_it_runs_in_workers(self) -> None:
        """A stack is started by a worker; a broken file is one class's error."""
        self.write("compose.yaml", "services: {web: {image: redis, command: [sleep, '60']}}\n")
        self.write("broken.yaml", "services: {web: {image: redis, privileged: true}}\n")
        self.write(
            "test_it.py",
            """
            import unittest
            from orchestrator import Compose, ServicesMixin

            class GoodTest(ServicesMixin, unittest.TestCase):
                stack = Compose("compose.yaml")
                def test_it(self):
                    self.assertEqual("web", self.stack["web"].alias)

            class BrokenTest(ServicesMixin, unittest.TestCase):
                stack = Compose("broken.yaml")
                def test_it(self): pass
            """,
        )
        status, output = self.run_python("-m", "orchestrator", "test", "-j", "2", "test_it")
        self.assertEqual(1, status, output)
        self.assertIn("'privileged' is not supported", output)
        self.assertIn("Ran 1 test", output)
