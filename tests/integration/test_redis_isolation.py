"""Redis: what each test gets, and that nothing of it is left for the next."""

import unittest
from concurrent.futures import ThreadPoolExecutor

import redis

from orchestrator import Redis, ServicesMixin
from orchestrator.errors import ServiceError


def rules(handle: Redis) -> list[set[str]]:
    """Each user's rules, but for one that a server writes down or leaves out."""
    lines = (str(line) for line in handle.client.acl_list())
    return [set(line.split()) - {"sanitize-payload"} for line in lines]


class IsolationTest(ServicesMixin, unittest.TestCase):
    """Each kind of isolation, by a server of its own."""

    cache = Redis(  # what is written a second later is lost when the machine is busy
        settings={"appendonly": True, "appendfsync": "always", "protected-mode": True},
        users={"app": "~* +@all"},
    )
    prefixed = Redis(isolation="prefix", settings={"notify-keyspace-events": "KEA"})
    renamed = Redis(command=["redis-server", "--rename-command", "INFO", ""], isolation="none")

    # "flush", the default

    def test_the_server_is_empty(self) -> None:
        """Keys of every database, scripts and functions are gone."""
        with type(self).cache.isolated("test_one-1") as one:
            one.client.set("k", "v")
            one.in_database(7).client.set("k", "v")
            digest = one.client.script_load("return 1")
            one.client.function_load("#!lua name=lib\nredis.register_function('f', function() end)")
        with type(self).cache.isolated("test_two-2") as two:
            self.assertEqual({}, two.client.info("keyspace"))
            self.assertEqual([False], two.client.script_exists(digest))
            self.assertEqual([], two.client.function_list())

    def test_settings_are_what_they_were(self) -> None:
        """CONFIG SET is undone, also after CONFIG RESETSTAT; what the class has set is its own."""
        type(self).cache.client.config_set("hz", "50")
        for reset in (False, True):
            with type(self).cache.isolated("test_one-1") as one:
                one.client.config_set("hz", "60")
                one.client.config_set("notify-keyspace-events", "KEA")
                if reset:
                    one.client.config_resetstat()
            with type(self).cache.isolated("test_two-2") as two:
                found = two.client.config_get("hz", "notify-keyspace-events")
                self.assertEqual({"hz": "50", "notify-keyspace-events": ""}, found)

    def test_users_are_what_they_were(self) -> None:
        """A new one is dropped, a changed one is put back, a dropped one returns."""
        with type(self).cache.isolated("test_one-1") as one:
            users = rules(one)
            one.client.acl_setuser("guest", enabled=True, nopass=True, keys="*")
            one.client.acl_deluser("app")
            one.client.acl_setuser("default", enabled=False)
        with type(self).cache.isolated("test_two-2") as two:
            self.assertEqual(users, rules(two))
            self.assertTrue(two.as_user("app").client.ping())

    def test_a_client_that_waits_does_not_take_what_the_next_test_pushes(self) -> None:
        """A worker that was left waiting for a queue is cut off."""

        def work(url: str) -> None:
            with redis.Redis.from_url(url, retry=None) as client:
                client.blpop(["queue"], timeout=60)

        with ThreadPoolExecutor(1) as pool:
            with type(self).cache.isolated("test_one-1") as one:
                worker = pool.submit(work, one.url)
                while not one.client.info("clients")["blocked_clients"]:
                    self.assertFalse(worker.done())
            with self.assertRaises(redis.RedisError):
                worker.result(10)
        with type(self).cache.isolated("test_two-2") as two:
            two.client.rpush("queue", "job")
            self.assertEqual(1, two.client.llen("queue"))

    def test_the_next_test_has_clean_state_after_a_restart(self) -> None:
        """Data that were on the disk are there after it, and gone; a replica is a master again."""
        with type(self).cache.isolated("test_one-1") as one:
            one.as_user("app").client.set("k", "v")
            one.restart()
            self.assertEqual(b"v", one.client.get("k"))
            one.client.replicaof("127.0.0.1", 1)
        with type(self).cache.isolated("test_two-2") as two:
            self.assertEqual(0, two.client.dbsize())
            self.assertTrue(two.client.set("k", "v"))

    # "prefix": a user that reaches its own keys only

    def test_ones_own_keys_may_be_used(self) -> None:
        """Keys, channels, scripts, transactions, other databases."""
        client, key = self.prefixed.client, self.prefixed.key
        with client.pipeline() as transaction:
            transaction.set(key("a"), 1)
            transaction.incr(key("a"))
            transaction.execute()
        self.assertEqual(b"2", client.get(key("a")))
        self.assertEqual(3, client.eval("return redis.call('incr', KEYS[1])", 1, key("a")))
        self.assertTrue(self.prefixed.in_database(2).client.set(key("b"), 1))
        with client.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
            subscription.subscribe(key("news"), f"__keyspace@0__:{key('c')}")
            subscription.get_message(timeout=60)
            subscription.get_message(timeout=60)
            client.publish(key("news"), "hello")
            self.assertEqual(b"hello", subscription.get_message(timeout=60)["data"])
            client.set(key("c"), 1)
            self.assertEqual(b"set", subscription.get_message(timeout=60)["data"])
        self.assertIn("redis_version", client.info("server"))

    def test_anothers_keys_may_not(self) -> None:
        """Neither directly nor by a script; nor what concerns every key."""
        client = self.prefixed.client
        refused = redis.exceptions.NoPermissionError
        for attempt in (
            lambda: client.get("other:1"),
            lambda: client.set("other:1", 1),
            lambda: client.rename(self.prefixed.key("a"), "other:1"),
            lambda: client.publish("other:news", "hello"),
            client.flushall,
            client.script_flush,
            lambda: client.config_set("maxmemory", 1),
            client.acl_list,
        ):
            with self.assertRaises(refused):
                attempt()
        with self.assertRaisesRegex(redis.ResponseError, "(?i)permission|can't access"):
            client.eval("return redis.call('get', 'other:1')", 0)

    def test_keys_and_user_are_gone_after_the_test(self) -> None:
        """In every database; what the class wrote stays."""
        of_class = type(self).prefixed
        of_class.client.set(of_class.key("seed"), "1")
        with of_class.isolated("test_one-1") as one:
            one.client.mset({one.key(str(number)): number for number in range(2500)})
            one.in_database(5).client.set(one.key("x"), 1)
            kept = one.client
            url = one.url
        self.assertEqual([b"prefixed:seed"], of_class.client.keys("*"))
        self.assertEqual(0, of_class.in_database(5).client.dbsize())
        with self.assertRaises(redis.RedisError), redis.Redis.from_url(url) as again:
            again.ping()
        with self.assertRaises(redis.RedisError):
            kept.ping()

    # "none"

    def test_keys_stay(self) -> None:
        """What one test writes, the next reads; prefixes keep them apart."""
        shared = type(self).cache.copy_with(isolation="none")
        with shared.isolated("test_one-1") as one:
            one.client.set("k", "v")
        with shared.isolated("test_two-2") as two:
            self.assertEqual(b"v", two.client.get("k"))
            self.assertNotEqual(one.prefix, two.prefix)

    # Modes that a user may set

    def test_what_cannot_be_isolated_says_so(self) -> None:
        """A command that is renamed is not there."""
        for isolation in ("flush", "prefix"):
            with (
                self.subTest(isolation),
                self.assertRaisesRegex(ServiceError, "(?s)unknown command.*isolation='none'"),
                type(self).renamed.copy_with(isolation=isolation).isolated("test_one-1"),
            ):
                pass
