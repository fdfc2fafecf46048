"""Redis: keys that expire, and eviction when the memory is used up."""

import time
import unittest

from orchestrator import Redis, ServicesMixin


class CacheTest(ServicesMixin, unittest.TestCase):
    """A server that says when a key has expired, and evicts what was not used for longest."""

    cache = Redis(
        maxmemory="4mb",
        maxmemory_policy="allkeys-lru",
        settings={
            "notify-keyspace-events": "Ex",
            "maxmemory-samples": "20",  # Redis looks at a sample, 5 by default
        },
    )

    def test_expiry_is_announced(self) -> None:
        """Who listens hears of an expired key, at the latest after five seconds."""
        with self.cache.client.pubsub() as subscription:  # type: ignore[no-untyped-call]
            subscription.subscribe("__keyevent@0__:expired")
            subscription.get_message(timeout=5)  # the subscription itself
            self.cache.client.set("session", "ada", px=50)
            message = subscription.get_message(timeout=5)
        assert message is not None
        self.assertEqual(b"session", message["data"])

    def test_least_recently_used_keys_go_first(self) -> None:
        """A key that is in use survives when the memory is used up; idle ones do not."""
        client = self.cache.client
        client.set("used", "x")
        idle = [f"idle:{number}" for number in range(200)]
        client.mset(dict.fromkeys(idle, "x" * 10_000))
        # Redis counts idle time in whole seconds.
        deadline = time.monotonic() + 10
        while client.object("idletime", idle[-1]) < 1:
            self.assertLess(time.monotonic(), deadline, "no idle time is counted")
        client.get("used")

        written = 0
        while not client.info("stats")["evicted_keys"]:
            client.set(f"new:{written}", "x" * 10_000)
            written += 1
            self.assertLess(written, 1000, "the memory is never used up")

        self.assertEqual(1, client.exists("used"))
        self.assertEqual(written, client.exists(*(f"new:{number}" for number in range(written))))
        self.assertLess(client.exists(*idle), len(idle))
