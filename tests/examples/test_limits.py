"""Services with limits: memory and processors as the server has them in production."""

from __future__ import annotations

import unittest

from orchestrator import Postgres, Redis, ServicesMixin

# Where the kernel tells a container its limits: control groups version 2, else version 1.
LIMITS = (
    "cd /sys/fs/cgroup; cat memory.max cpu.max 2>/dev/null || "
    "cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us"
)


class SmallServersTest(ServicesMixin, unittest.TestCase):
    """Two servers on a small budget."""

    db = Postgres(memory="256m", cpus=0.5, settings={"shared_buffers": "64MB"})
    cache = Redis(memory="64m", cpus=0.25, maxmemory="32mb")

    def test_servers_are_limited(self) -> None:
        """Each is killed when it wants more memory, and waits when it wants more processors."""
        for service, megabytes, cpus in ((self.db, 256, 0.5), (self.cache, 64, 0.25)):
            with self.subTest(service.alias):
                told = service.exec(["sh", "-c", LIMITS]).output.split()
                memory, quota, period = map(int, told)
                self.assertEqual((megabytes << 20, cpus), (memory, quota / period))

    def test_they_work_all_the_same(self) -> None:
        """Small servers answer too."""
        with self.db.connect() as connection:
            self.assertEqual(("64MB",), connection.execute("show shared_buffers").fetchone())
        self.assertTrue(self.cache.client.ping())
