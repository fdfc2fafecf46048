"""The contract of the redis image."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.contract.images.case import ImageTest


class RedisImageTest(ImageTest):
    """The contract of docker.io/library/redis."""

    name = "redis"

    def ready(self, container: str) -> None:
        """Wait for the server's PONG."""
        self.eventually(lambda: self.answers(container, "redis-cli", "-e", "ping"), container)

    def setting(self, container: str, name: str) -> str:
        """Return one of the server's settings."""
        return self.execute(container, "redis-cli", "config", "get", name).partition("\n")[2]

    def test_declares_its_interface(self) -> None:
        """The image declares its volume, port and working directory."""
        self.assertEqual({"/data": {}}, self.config("Volumes"))
        self.assertEqual({"6379/tcp": {}}, self.config("ExposedPorts"))
        self.assertEqual("/data", self.config("WorkingDir"))

    def test_runs_as_redis_in_data(self) -> None:
        """The server is process 1, belongs to user redis and saves to /data."""
        container = self.start()
        self.ready(container)
        self.assertEqual("redis", self.execute(container, "stat", "-c", "%U", "/proc/1"))
        self.assertEqual("/data", self.setting(container, "dir"))
        self.execute(container, "redis-cli", "save")
        self.assertEqual("redis", self.execute(container, "stat", "-c", "%U", "/data/dump.rdb"))

    def test_other_hosts_may_connect(self) -> None:
        """Protected mode is off: a client that is not on the loopback gets in."""
        container = self.start()
        self.ready(container)
        self.assertEqual("no", self.setting(container, "protected-mode"))
        address = self.execute(container, "hostname", "-i")
        self.assertEqual("PONG", self.execute(container, "redis-cli", "-h", address, "ping"))

    def test_arguments_go_to_the_server(self) -> None:
        """Arguments that begin with a dash are the server's."""
        container = self.start("--maxmemory", "10mb", "--maxmemory-policy", "allkeys-lru")
        self.ready(container)
        self.assertEqual("10485760", self.setting(container, "maxmemory"))
        self.assertEqual("allkeys-lru", self.setting(container, "maxmemory-policy"))

    def test_protected_mode_can_be_asked_for(self) -> None:
        """The user's own word about protected mode wins."""
        container = self.start("--protected-mode", "yes")
        self.ready(container)
        self.assertEqual("yes", self.setting(container, "protected-mode"))

    def test_configuration_file(self) -> None:
        """A first argument that ends in .conf is the server's configuration file."""
        for lines, protected in (("", "no"), ("protected-mode yes\n", "yes")):
            with self.subTest(protected=protected), tempfile.TemporaryDirectory() as directory:
                Path(directory).chmod(0o755)
                (Path(directory) / "my.conf").write_text(f"maxmemory 11mb\n{lines}")
                container = self.start(
                    "/etc/my/my.conf", options=(f"--volume={directory}:/etc/my:ro",)
                )
                self.ready(container)
                self.assertEqual("11534336", self.setting(container, "maxmemory"))
                self.assertEqual(protected, self.setting(container, "protected-mode"))

    def test_command_with_arguments(self) -> None:
        """The server's name with arguments works as the arguments alone do."""
        container = self.start("redis-server", "--port", "7000")
        probe = ("redis-cli", "-e", "-p", "7000", "ping")
        self.eventually(lambda: self.answers(container, *probe), container)
        self.assertEqual("redis", self.execute(container, "stat", "-c", "%U", "/proc/1"))

    def test_other_command_runs_as_it_is(self) -> None:
        """A command of one's own runs instead of the server."""
        container = self.start("redis-cli", "--version")
        self.assertEqual(0, self.wait_exit(container))
        self.assertIn("redis-cli 7.", self.logs(container))

    def test_wrong_argument_ends_the_container(self) -> None:
        """An unknown setting ends the container with the server's message."""
        container = self.start("--no-such-setting", "1")
        self.assertEqual(1, self.wait_exit(container))
        self.assertIn("no-such-setting", self.logs(container))
