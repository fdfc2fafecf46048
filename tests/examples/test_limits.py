"""Services with limits: memory and processors as the server has them in production."""

from __future__ import annotations

import unittest
from typing import TYPE_CHECKING

from orchestrator import Kafka, Postgres, Redis, ServicesMixin

if TYPE_CHECKING:
    from orchestrator import Service

# Where the kernel tells a container its limits: control groups version 2, else version 1.
MEMORY = "cd /sys/fs/cgroup; cat memory.max 2>/dev/null || cat memory/memory.limit_in_bytes"
QUOTA = (
    "cd /sys/fs/cgroup; cat cpu.max 2>/dev/null || "
    "echo $(cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us)"
)


class SmallServersTest(ServicesMixin, unittest.TestCase):
    """Three servers on a small budget."""

    db = Postgres(memory="256m", cpus=0.5, settings={"shared_buffers": "64MB"})
    cache = Redis(memory="64m", cpus=0.25, maxmemory="32mb")
    events = Kafka(memory="768m", cpus=1.5, env={"KAFKA_HEAP_OPTS": "-Xmx256m"})

    def test_memory_is_limited(self) -> None:
        """Each server may use so many bytes, and is killed when it wants more."""
        for service, megabytes in ((self.db, 256), (self.cache, 64), (self.events, 768)):
            with self.subTest(service.alias):
                self.assertEqual(megabytes << 20, int(told(service, MEMORY)))

    def test_processors_are_limited(self) -> None:
        """Each server may use so much of each tenth of a second."""
        for service, cpus in ((self.db, 0.5), (self.cache, 0.25), (self.events, 1.5)):
            with self.subTest(service.alias):
                quota, period = map(int, told(service, QUOTA).split())
                self.assertEqual(cpus, quota / period)

    def test_they_work_all_the_same(self) -> None:
        """Small servers answer too."""
        with self.db.connect() as connection:
            self.assertEqual(("64MB",), connection.execute("show shared_buffers").fetchone())
        self.assertTrue(self.cache.client.ping())
        topic = self.events.topic("small")
        with self.events.producer() as producer:
            producer.send(topic, b"hello")
        self.assertEqual(1, len(self.events.consume(topic, count=1, timeout=10)))


def told(service: Service, command: str) -> str:
    """What a command in the service's container prints."""
    result = service.exec(["sh", "-c", command])
    assert result.exit_code == 0, result.output
    return result.output


if __name__ == "__main__":
    unittest.main()
