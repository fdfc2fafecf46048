"""The contract of the redis image."""

from __future__ import annotations

from typing import ClassVar

from tests.contract.images.case import ImageTest


class RedisImageTest(ImageTest):
    """The contract of docker.io/library/redis."""

    name = "redis"
    plain: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        """Have a server without any argument."""
        super().setUpClass()
        cls.plain = cls.start()

    def ready(self, container: str, *options: str) -> None:
        """Wait for the server's PONG."""
        ping = ("redis-cli", "-e", *options, "ping")
        self.eventually(lambda: self.answers(container, *ping), container)

    def assert_settings(self, container: str, **expected: str) -> None:
        """Expect some of the server's settings."""
        self.ready(container)
        for name, value in expected.items():
            asks = ("redis-cli", "config", "get", name.replace("_", "-"))
            self.assertEqual(value, self.execute(container, *asks).partition("\n")[2])

    def test_declares_its_interface(self) -> None:
        """The image declares its volume, port and working directory."""
        expected = [{"/data": {}}, {"6379/tcp": {}}, "/data"]
        self.assertEqual(expected, self.config("Volumes", "ExposedPorts", "WorkingDir"))

    def test_runs_as_redis_in_data(self) -> None:
        """The server is process 1, belongs to user redis and saves to /data."""
        self.assert_settings(self.plain, dir="/data")
        self.execute(self.plain, "redis-cli", "save")
        for path in ("/proc/1", "/data/dump.rdb"):
            self.assertEqual("redis", self.execute(self.plain, "stat", "-c", "%U", path))

    def test_commands(self) -> None:
        """The server's arguments alone, and a setting that there is not."""
        dashed = self.start("--maxmemory", "10mb")
        self.assert_settings(dashed, maxmemory="10485760", protected_mode="no")
        self.assert_ends(self.start("--no-such-setting", "1"), "no-such-setting", status=1)
